"""One matrix after another: jaxlib's batched decompositions wait for each other for ever where one program holds several."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import LoRA, LoRAConfig, algebra, decompositions, starts
from lora_jax.adapter import adapter_of
from lora_jax.models.causal_lm import CausalLM, CausalLMConfig
from lora_jax.tree import flat

LAPACK = re.compile(r"@lapack_\w+(?:qr|sdd)\w*\(.*: \(tensor<([^>]*)>")


def axes_of_operands(program, *args) -> set[int]:
    """How many axes what it decomposes has: 2 for matrices."""
    found = LAPACK.findall(jax.jit(program).lower(*args).as_text())
    return {operand.count("x") for operand in found}


def test_jaxlib_s_own_are_found_by_their_text():
    assert axes_of_operands(jnp.linalg.qr, jnp.ones((4, 6, 3))) == {3}
    assert axes_of_operands(lambda x: jnp.linalg.svd(x, full_matrices=False), jnp.ones((4, 6, 3))) == {3}


@pytest.mark.parametrize("shape", [(4, 5, 3), (2, 3, 3, 5)])
def test_stacks_are_those_of_numpy(key, shape):
    matrices = np.asarray(jax.random.normal(key, shape))
    q, r = jax.jit(decompositions.qr)(matrices)
    u, s, v = jax.vmap(decompositions.svd)(matrices)
    np.testing.assert_array_equal(decompositions.qr(jnp.asarray(matrices[0]))[0], q[0])
    for got, expected in ((q, np.linalg.qr(matrices)[0]), (r, np.linalg.qr(matrices)[1])):
        np.testing.assert_allclose(got, expected, atol=2e-6)
    np.testing.assert_allclose(s, np.linalg.svd(matrices, compute_uv=False), rtol=1e-5)
    np.testing.assert_allclose((u * s[..., None, :]) @ v, matrices, atol=3e-6)
    for program in (decompositions.qr, decompositions.svd):
        assert axes_of_operands(jax.vmap(program), matrices) == {2}


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_layers_of_a_scan_begin_one_after_another(key, init):
    model, ids = CausalLM(CausalLMConfig(11, 8, 8, 2, 2, 1, 16)), jnp.ones((1, 3), jnp.int32)
    config = LoRAConfig(rank=2, init=init, targets="all-linear")
    base = jax.eval_shape(model.init, key, ids)["params"]
    fresh = adapter_of(jax.eval_shape(LoRA(model, config).init, key, ids)["params"])
    assert axes_of_operands(functools.partial(starts.onto, config), flat(fresh), flat(base)) == {2}


def test_stacked_adapters_are_recompressed_one_after_another(key):
    wide = {
        "lora_a": jax.random.normal(key, (3, 6, 4)),
        "lora_b": jax.random.normal(key, (3, 4, 5)),
        "lora_scale": jnp.ones(3),
    }
    assert axes_of_operands(lambda adapter: algebra.recompress(adapter, 2), wide) == {2}


@pytest.mark.parametrize("shape", [(5, 3), (4, 5, 3)])
def test_derivatives_are_jax_s(key, shape):
    matrices = jax.random.normal(key, shape)
    for own, theirs in ((decompositions.qr, jnp.linalg.qr), (decompositions.svd, jnp.linalg.svd)):
        sizes = {} if own is decompositions.qr else {"full_matrices": False}
        got = jax.grad(lambda x, own=own: own(x)[1].sum())(matrices)
        expected = jax.grad(lambda x, theirs=theirs, sizes=sizes: theirs(x, **sizes)[1].sum())(matrices)
        np.testing.assert_allclose(got, expected, atol=1e-6)
