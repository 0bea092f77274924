"""Functions with a derivative of their own: which leaves really go into one, and that it is told once."""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax
from lora_jax import LoRA, LoRAConfig
from lora_jax.errors import CustomDerivativeWarning
from lora_jax.products.find import find
from lora_jax.products.function import adapt, lora
from tests.products.functions import CASES, straight
from tests.products.test_function import drawn

pytestmark = pytest.mark.usefixtures("quick_compile")
KEY, X = jax.random.key(0), jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
STRAIGHT = f"straight (functions.py:{straight.__wrapped__.__code__.co_firstlineno})"
W = jnp.asarray(np.random.default_rng(1).normal(size=(4, 4)), jnp.float32)


@jax.custom_jvp
def gated(x, w, gate):
    """A product inside, of which the gate is no part."""
    return (x @ w) * jnp.sum(gate)


@gated.defjvp
def _(primals, tangents):
    return gated(*primals), gated(*tangents[:1], *primals[1:])


@jax.custom_vjp
def rounded(w):
    """Straight through: no product inside."""
    return jnp.round(w * 4) / 4


rounded.defvjp(lambda w: (rounded(w), None), lambda _, g: (g,))


def told(fn, params=None) -> dict[str, list[str]]:
    sites = find(fn, {"w": W, "v": W} if params is None else params, X)
    return {path: [use.function for use in site.custom] for path, site in sites.items() if site.custom}


def test_only_what_a_product_inside_eats_is_listed():
    of = f"gated (test_derivatives.py:{gated.__wrapped__.__code__.co_firstlineno})"
    assert told(lambda p, x: gated(x, p["w"], p["v"]) @ p["v"]) == {"w": [of]}
    assert told(lambda p, x: gated(x @ p["v"], p["w"], x)) == {"w": [of]}
    assert told(lambda p, x: jax.jit(lambda x: gated(x, p["w"].T, x))(x) @ p["v"]) == {"w": [of]}
    assert told(lambda p, x: jax.lax.scan(lambda x, _: (gated(x, p["w"], x), None), x, None, 2)[0]) == {"w": [of]}


def test_jax_s_own_functions_and_those_without_a_product_are_not():
    def fn(params, x):
        x = jax.nn.silu(jax.nn.relu(x @ params["w"]))
        x = jax.nn.logsumexp(jax.nn.relu6(x @ rounded(params["v"])), axis=-1, keepdims=True) + x
        return jax.nn.softmax(x) @ jax.nn.relu(params["w"])

    assert told(fn) == {}


def test_what_has_no_product_inside_keeps_its_derivative_for_the_update_too():
    fn = lambda params, x: jnp.sum(x @ rounded(params["w"]) + x @ params["w"])  # noqa: E731
    params = drawn(adapt(KEY, {"w": W}, fn, LoRAConfig(rank=2, targets="w", roles={"w": "io"}), X))
    frozen, own = lora_jax.partition(params, lora_jax.trainable_mask(params))
    got = jax.grad(lambda own: lora(fn)(lora_jax.combine(frozen, own), X))(own)
    expected = jax.grad(lambda own: fn(lora_jax.merge(lora_jax.combine(frozen, own)), X))(own)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), got, expected)


def test_it_is_told_once_at_adapt_and_never_again():
    case = CASES["custom derivative"]
    with pytest.warns(CustomDerivativeWarning) as caught:
        params = adapt(KEY, case.params(), case.fn, LoRAConfig(rank=2, targets="*"), case.input())
    (message,) = [str(warning.message) for warning in caught]
    assert message.startswith(f"w goes into {STRAIGHT}, called in the model (functions.py:")
    assert (
        "Its own rule holds for the base; the update gets the true derivative." in message and "v goes" not in message
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lora(case.fn)(params, case.input())
        adapt(KEY, case.params(), case.fn, LoRAConfig(rank=2, targets="*", excludes="w"), case.input())


def test_many_places_are_one_warning():
    fn = lambda params, x: [straight(x, w) for w in params.values()]  # noqa: E731
    with pytest.warns(CustomDerivativeWarning, match="; and 2 more: ") as caught:
        adapt(KEY, dict.fromkeys("abcde", W), fn, LoRAConfig(rank=2, targets="*"), X)
    assert len(caught) == 1


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.normal(0.3), (4, 4))
        return nn.Dense(3, name="head")(straight(x, w))


def test_in_a_linen_model():
    model = LoRA(Block(), LoRAConfig(rank=2, targets="all-linear"))
    base = Block().init(KEY, X)["params"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        params = lora_jax.adapt(KEY, base, model, X)
        model.apply({"params": params}, X)
    (message,) = [str(w.message) for w in caught if issubclass(w.category, CustomDerivativeWarning)]
    assert f"w goes into {STRAIGHT}, called in Block (test_derivatives.py:" in message
