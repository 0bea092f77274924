"""Half precision: what lies between the factors must hold where the merged kernel and its product do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax
from lora_jax import LoRAConfig
from lora_jax.products.function import adapt, lora
from tests.products.functions import CASES
from tests.products.test_function import drawn

pytestmark = pytest.mark.usefixtures("quick_compile")
ALL = LoRAConfig(rank=2, alpha=3, targets="*")
FEW = ("x w", "gemma", "scan", "lstm", "tied table", "experts", "ragged", "convolution", "fused, then sliced")
ERRORS = {jnp.float16: 1e-2, jnp.bfloat16: 8e-2}  # of the largest output
# Factors on (a, b, scale) whose product is 1: the update is what it was.
TURNS = {
    "a large": (1e6, 1e-6, 1.0),
    "a small": (1e-9, 1e9, 1.0),
    "scale large": (1e-3, 1e-3, 1e6),
    "scale small": (1e4, 1e4, 1e-8),
}


def turned(params, of_a: float, of_b: float, of_scale: float):
    """The same update by other factors."""
    by = {"lora_a": of_a, "lora_b": of_b, "lora_scale": of_scale}

    def change(path, leaf):
        return (
            leaf * jnp.float32(by.get(jax.tree_util.keystr(path[-1:], simple=True), 1)) if path[-1].key in by else leaf
        )

    return jax.tree_util.tree_map_with_path(change, params)


@pytest.fixture(params=FEW)
def case(request):
    return CASES[request.param]


@pytest.fixture
def params(case):
    return drawn(adapt(jax.random.key(0), case.params(), case.fn, ALL, case.input()), 0.2)


def halved(tree, dtype):
    """The base in half precision; adapters stay float32."""
    base = jax.tree.map(lambda leaf: leaf.astype(dtype), lora_jax.strip(tree))
    return lora_jax.combine(base, lora_jax.adapter_of(tree))


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("turn", TURNS)
def test_the_narrow_array_neither_overflows_nor_vanishes(case, params, dtype, turn):
    expected = np.asarray(case.fn(lora_jax.merge(params), case.input()), np.float32)
    base = np.asarray(case.fn(lora_jax.strip(params), case.input()), np.float32)
    x = case.input() if case.input().dtype == jnp.int32 else case.input(dtype)
    got = lora(case.fn)(turned(halved(params, dtype), *TURNS[turn]), x)
    assert got.dtype == dtype
    allowed = ERRORS[dtype] * np.abs(expected).max()
    assert np.abs(np.asarray(got, np.float32) - expected).max() <= allowed < np.abs(expected - base).max()


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("name", ["gemma", "tied table", "convolution"])
def test_magnitudes_in_float16(name, turn):
    """DoRA's gain too, which knows the norm of W + scale a b from products with the factors."""
    case = CASES[name]
    config = dataclasses.replace(ALL, dora=True)
    params = drawn(adapt(jax.random.key(0), case.params(), case.fn, config, case.input()), 0.2)
    expected = np.asarray(case.fn(lora_jax.merge(params), case.input()), np.float32)
    x = case.input() if case.input().dtype == jnp.int32 else case.input(jnp.float16)
    got = lora(case.fn)(turned(halved(params, jnp.float16), *TURNS[turn]), x)
    assert got.dtype == jnp.float16
    assert np.abs(np.asarray(got, np.float32) - expected).max() <= 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize("turn", TURNS)
def test_gradients_in_float16_are_those_of_float32(case, params, turn):
    adapters, of_a = lora_jax.adapter_of(turned(params, *TURNS[turn])), TURNS[turn]

    def gradient(base, x):
        loss = lambda adapters: jnp.sum(lora(case.fn)(lora_jax.combine(base, adapters), x).astype(jnp.float32))  # noqa: E731
        return jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(adapters))

    base = lora_jax.strip(params)
    x = case.input() if case.input().dtype == jnp.int32 else case.input(jnp.float16)
    got = gradient(jax.tree.map(lambda leaf: leaf.astype(jnp.float16), base), x)
    pairs = zip(got, gradient(base, case.input()), strict=True)
    # A scale's gradient is a sum of both signs, which float16's rounding of the base moves by more than its size; and no scale trains.
    for (path, leaf), (_, wanted) in ((one, other) for one, other in pairs if one[0][-1].key != "lora_scale"):
        assert np.abs(leaf - wanted).max() <= 5e-2 * np.abs(wanted).max(), (path, of_a)


def test_dropout_does_not_leave_float16():
    fn = lambda params, x: x @ params["w"]  # noqa: E731
    x, base = jnp.full((1, 8), 6e4, jnp.float16), {"w": jnp.zeros((8, 3), jnp.float16)}
    params = adapt(jax.random.key(0), base, fn, ALL, x)
    params["w:io"] = {"lora_a": jnp.full((8, 2), 1e-3), "lora_b": jnp.full((2, 3), 1e-3), "lora_scale": jnp.ones(())}
    got = lora(fn, dropout=0.5, key=jax.random.key(1))(params, x)
    assert np.all(np.isfinite(got)) and np.all(np.asarray(got) > 0)


def test_a_side_path_beyond_float16_may_cancel_with_the_base():
    fn = lambda params, x: x @ params["w"]  # noqa: E731
    x, base = jnp.full((1, 4), 1e3, jnp.float16), {"w": jnp.full((4, 2), -15, jnp.float16)}
    params = adapt(jax.random.key(0), base, fn, ALL, x)
    params["w:io"] = {"lora_a": jnp.ones((4, 2)), "lora_b": jnp.full((2, 2), 10.0), "lora_scale": jnp.ones(())}
    np.testing.assert_array_equal(lora(fn)(params, x), fn(lora_jax.merge(params), x))
