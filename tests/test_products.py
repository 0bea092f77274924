"""Products in bfloat16: rounded on the way in, exact sums, their gradients likewise; and a model trains on them as on float32's."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from lora_jax.models import products
from lora_jax.models.causal_lm import CausalLM, CausalLMConfig
from tests.cases import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compile")
PLAIN = (((2,), (0,)), ((), ()))
RANDOM = np.random.default_rng(0)
X, W, DY = (jnp.asarray(RANDOM.normal(size=shape), jnp.float32) for shape in ((2, 3, 50), (50, 7), (2, 3, 7)))


def rounded(x: jax.Array) -> np.ndarray:
    return np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float64)


def test_a_product_and_its_gradients_are_those_of_rounded_factors():
    y, pull = jax.vjp(lambda x, w: products.bfloat16(x, w, PLAIN), X, W)
    dx, dw = pull(DY)
    expected = rounded(X) @ rounded(W), rounded(DY) @ rounded(W).T, np.einsum("btd,btk->dk", rounded(X), rounded(DY))
    for got, wanted in zip((y, dx, dw), expected, strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    assert np.abs(y - np.asarray(X, np.float64) @ np.asarray(W)).max() > 1e-4  # it does round


def test_all_three_products_have_narrow_factors_and_wide_results():
    """Or XLA would widen the factors first, and they would be no faster."""
    jaxpr = jax.make_jaxpr(lambda x, w, dy: jax.vjp(lambda x, w: products.bfloat16(x, w, PLAIN), x, w)[1](dy))(X, W, DY)
    found = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == "dot_general"]
    assert len(found) == 3
    for equation in found:
        assert {v.aval.dtype for v in equation.invars} == {jnp.dtype(jnp.bfloat16)}
        assert equation.outvars[0].aval.dtype == jnp.float32


def test_any_other_contraction_is_as_it_was():
    dimensions = (((1,), (0,)), ((), ()))
    expected = jax.lax.dot_general(jnp.asarray(X), jnp.ones((3, 2)), dimensions)
    np.testing.assert_array_equal(products.bfloat16(jnp.asarray(X), jnp.ones((3, 2)), dimensions), expected)


def test_a_model_of_such_products_is_close_to_itself():
    config = CausalLMConfig(13, 12, 10, 2, 3, 1, 16)
    ids = jnp.asarray(RANDOM.integers(13, size=(2, 9)), jnp.int32)
    params = jax.jit(CausalLM(config).init)(jax.random.key(0), ids)["params"]

    def loss(params, model):
        return jnp.mean(model.apply({"params": params}, ids) ** 2)

    wide, narrow = (
        jax.jit(jax.value_and_grad(lambda params, model=model: loss(params, model)))(params)
        for model in (CausalLM(config), CausalLM(config, dot_general=products.bfloat16))
    )
    assert_trees_close(narrow, wide, 0.02)
