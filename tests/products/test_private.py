"""What the engine reaches of JAX's private surface has a way without it."""

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax import LoRAConfig
from lora_jax.products import private
from lora_jax.products.find import find
from lora_jax.products.function import adapt, lora
from tests.products.functions import CASES


def test_without_names_and_lines_of_the_source_messages_are_shorter_and_nothing_else(monkeypatch):
    case = CASES["gemma"]
    params = adapt(jax.random.key(0), case.params(), case.fn, LoRAConfig(rank=2, targets="*"), case.input())
    expected = lora(case.fn)(params, case.input())
    assert "(functions.py:" in str(find(case.fn, case.params(), case.input())["q"].uses[0])
    monkeypatch.setattr(private, "source_info_util", None)
    np.testing.assert_array_equal(lora(case.fn)(params, case.input()), expected)
    use = find(case.fn, case.params(), case.input())["q"].uses[0]
    assert str(use).startswith("dot_general in ") and "(" not in str(use)


def test_an_output_that_is_an_input_is_known_through_calls_and_remats():
    def fn(x, w):
        y, v = jax.jit(jax.checkpoint(lambda x, w: (x * 2, w)))(x, w)
        return v, y, w + 0, 3.0

    program = jax.make_jaxpr(fn)(jnp.ones(2), jnp.ones(3)).jaxpr
    assert [private.origin(program, out) for out in program.outvars] == [1, None, None, None]
