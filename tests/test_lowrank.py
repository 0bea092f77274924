"""Is the array maths that of numpy?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import lowrank


def factors(lead=(), d=5, r=3, k=4):
    random = np.random.default_rng(0)
    a, b = random.normal(size=(*lead, d, r)), random.normal(size=(*lead, r, k))
    return (
        jnp.asarray(a, jnp.float32),
        jnp.asarray(b, jnp.float32),
        jnp.asarray(random.uniform(1, 2, lead), jnp.float32),
    )


def exact(*arrays):
    return [np.asarray(array, np.float64) for array in arrays]


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_delta(lead):
    a, b, scale = exact(*factors(lead))
    np.testing.assert_allclose(lowrank.delta(*factors(lead)), scale[..., None, None] * (a @ b), rtol=1e-5, atol=1e-6)


def test_delta_of_bfloat16_factors_is_float32():
    a, b, scale = factors()
    a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    got = lowrank.delta(a, b, scale)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, float(scale) * (exact(a)[0] @ exact(b)[0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lead", [(), (6,), (2, 3), (2, 1, 3)])
def test_side_path(lead):
    a, b, scale = factors()
    x = jnp.asarray(np.random.default_rng(1).normal(size=(*lead, 5)), jnp.float32)
    wide = exact(x)[0] @ (float(scale) * (exact(a)[0] @ exact(b)[0]))
    np.testing.assert_allclose(lowrank.side_path(x, a, b, scale), wide, rtol=1e-5, atol=1e-5)


def test_side_path_never_forms_the_product():
    d, k = 50, 40
    arguments = jnp.ones((7, d)), jnp.ones((d, 2)), jnp.ones((2, k)), jnp.asarray(0.5)
    gradient = jax.grad(lambda *args: lowrank.side_path(*args).sum(), argnums=(0, 1, 2, 3))
    assert f"[{d},{k}]" not in str(jax.make_jaxpr(gradient)(*arguments))
    assert f"[{d},{k}]" in str(jax.make_jaxpr(lowrank.delta)(*arguments[1:]))


def test_padding_changes_neither_the_update_nor_its_gradient():
    a, b, scale = factors()
    wide_a, wide_b = lowrank.pad_rank(a, b, 7)
    assert (wide_a.shape, wide_b.shape) == ((5, 7), (7, 4))
    np.testing.assert_array_equal(lowrank.delta(wide_a, wide_b, scale), lowrank.delta(a, b, scale))
    loss = jax.grad(lambda a, b: jnp.sin(lowrank.delta(a, b, scale)).sum(), argnums=(0, 1))
    (grad_a, grad_b), (narrow_a, narrow_b) = loss(wide_a, wide_b), loss(a, b)
    assert not np.any(grad_a[:, 3:])
    assert not np.any(grad_b[3:])
    np.testing.assert_allclose(grad_a[:, :3], narrow_a, rtol=1e-6)
    np.testing.assert_allclose(grad_b[:3], narrow_b, rtol=1e-6)


def test_padding_down_is_refused():
    with pytest.raises(ValueError, match="cannot be padded down"):
        lowrank.pad_rank(*factors()[:2], 2)


def test_best_error_is_that_of_the_truncated_svd():
    target = np.random.default_rng(2).normal(size=(6, 4))
    u, s, vt = np.linalg.svd(target, full_matrices=False)
    expected = [np.sum((target - (u[:, :r] * s[:r]) @ vt[:r]) ** 2) for r in range(5)]
    np.testing.assert_allclose(lowrank.best_error(jnp.asarray(target, jnp.float32)), expected, rtol=1e-4, atol=1e-5)
