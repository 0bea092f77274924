"""What `generate` is given and cannot be is refused by name; JAX would clamp it, or Flax leave it out, without a word."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import LoRA, LoRAConfig, adapt
from lora_jax.errors import ModelError
from lora_jax.models.generation import Sampling, generate
from tests.cases import randomised
from tests.llama_golden import folder, ids, model

pytestmark = pytest.mark.usefixtures("quick_compile", "as_users_run_it")
LENGTHS = jnp.asarray([13, 4, 1])


def made(prompts=None, lengths=LENGTHS, params=None, of=None, key=None, **options):
    params = folder().params if params is None else params
    return generate(
        of or model(), params, ids() if prompts is None else prompts, lengths, key, **{"max_new_tokens": 3, **options}
    )


def adapted():
    wrapped = LoRA(model(), LoRAConfig(rank=2, targets=("*_proj",)))
    return wrapped, randomised(adapt(jax.random.key(0), folder().params, wrapped, ids()), seed=0)


def test_adapters_that_the_model_would_leave_out():
    wrapped, params = adapted()
    with pytest.raises(ModelError, match=r"not this model's: unexpected model/layers/mlp/down_proj.*by through="):
        made(params=params)
    assert made(params=params, through=wrapped).shape == (3, 3)


def test_variables_in_place_of_parameters():
    with pytest.raises(ModelError, match="not this model's: missing model/embed_tokens/embedding"):
        made(params={"params": folder().params})


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"lengths": jnp.asarray([13, 0, 1])}, "prompt 1 has the length 0; a length is from 1 to 13"),
        ({"lengths": jnp.asarray([14, 4, 1])}, "prompt 0 has the length 14; a length is from 1 to 13"),
        ({"lengths": jnp.asarray([13, 4])}, r"prompts are \[3, 13\] and lengths \[2\]"),
        ({"lengths": jnp.asarray([13.0, 4.0, 1.0])}, r"lengths are float32 \[3\]; expected integers \[B\]"),
        ({"lengths": None}, r"lengths are None; expected integers \[B\]"),
        ({"prompts": "Hello"}, r"prompts are 'Hello'; expected integers \[B, T\]"),
        ({"prompts": np.zeros((3, 0), int)}, r"prompts are \[3, 0\]"),
        ({"prompts": [[1, 2], [3]]}, "prompts are"),
        ({"prefill": 0}, "prefill is 0; it must be an integer of 1 or more"),
        ({"prefill": -3}, "prefill is -3"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": True}, "max_new_tokens is True"),
        ({"stop": "end"}, "stop is 'end'; expected the number of a token"),
        ({"stop": [1.5]}, r"stop is \[1.5\]"),
        ({"sampling": {"temperature": 1}}, "sampling is .*; expected a Sampling"),
        ({"key": 0}, "key is 0; expected one of JAX's"),
        ({"sampling": Sampling(1.0)}, "key is None; expected one of JAX's"),
        ({"through": 3}, "through is 3; expected a module that wraps the model"),
        ({"of": "llama"}, "model is a str; expected a CausalLM"),
    ],
    ids=str,
)
def test_what_cannot_be(options, part):
    with pytest.raises(ModelError, match=part):
        made(**options)


@pytest.mark.parametrize("token", [-1, 10**6])
def test_a_token_outside_the_vocabulary(token):
    with pytest.raises(ModelError, match=rf"token 3 of prompt 1 is {token}; the model has tokens 0 to "):
        made(prompts=ids().at[1, 3].set(token))
    np.testing.assert_array_equal(made(prompts=ids().at[1, 4].set(token)), made())  # beyond its length


def test_a_wrapper_in_the_models_place():
    wrapped, params = adapted()
    with pytest.raises(ModelError, match=r"model is a LoRA; expected a CausalLM .*through="):
        made(of=wrapped, params=params)


def test_token_0_of_numpy_is_a_stop():
    params = jax.tree.map(jnp.zeros_like, folder().params)  # all logits alike: token 0 is chosen
    zero, never = made(params=params, stop=np.int32(0)), made(stop=[np.int64(10**6)])
    assert not zero.any() and never.shape == (3, 3)
    free = made(max_new_tokens=6)
    np.testing.assert_array_equal(made(max_new_tokens=6, stop=[int(free[0, 2])])[0, 3:], free[0, 2])


def test_lists_are_prompts_and_greedy_decoding_needs_no_key():
    got = made(prompts=ids().tolist(), lengths=LENGTHS.tolist(), key=None)
    np.testing.assert_array_equal(got, made(key=jax.random.PRNGKey(7)))


def test_under_jit_shapes_alone_are_looked_at():
    got = jax.jit(lambda prompts, lengths: made(prompts, lengths))(ids(), LENGTHS)
    np.testing.assert_array_equal(got, made())


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"temperature": None}, "temperature is None"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"temperature": True}, "temperature is True"),
        ({"temperature": 1e-40}, "temperature is 1e-40; it must be 0"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"top_k": float("nan")}, "top_k is nan"),
        ({"top_p": [1]}, r"top_p is \[1\]"),
    ],
    ids=str,
)
def test_rules_of_another_type(values, part):
    with pytest.raises(ModelError, match=part):
        Sampling(**{"temperature": 1.0, **values})


def test_the_least_temperature_takes_the_likeliest():
    np.testing.assert_array_equal(made(sampling=Sampling(1e-6), key=jax.random.key(1)), made())
