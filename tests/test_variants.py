"""DoRA, PiSSA, OLoRA and orthogonal starts: the layer with the dense kernel, the base at first, and the papers' own properties."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from lora_jax import (
    LoRA,
    LoRAConfig,
    LoRAError,
    adapt,
    adapter_of,
    combine,
    merge,
    rebase,
    scaled,
    strip,
    trainable_mask,
)
from tests.cases import assert_trees_close, case_named, dense_base, equations, every_variant, flat, several_variants


def nested(leaves):
    return unflatten_dict(leaves, sep="/")


pytestmark = pytest.mark.usefixtures("quick_compile")


@every_variant
def test_output_is_that_of_the_dense_kernel(case):
    x, params = case.x(), case.params()
    expected = case.base_apply()(dense_base(params), x)
    assert_trees_close(case.apply()(params, x), expected, 1e-5)
    assert np.abs(expected - case.base_apply()(strip(params), x)).max() > 1e-2


@every_variant
def test_merged_kernels_are_those_of_numpy(case):
    assert_trees_close(merge(case.params()), dense_base(case.params()), 2e-6)


@several_variants
def test_gradients_are_those_of_the_dense_kernel(case):
    x, params = case.x(), case.params()
    model, module = case.model(), case.build(jnp.float32)
    trains = {p: leaf for p, leaf in flat(params).items() if p.endswith(("lora_a", "lora_b", "lora_magnitude"))}
    rest = {p: leaf for p, leaf in flat(params).items() if p not in trains}

    def through_side_path(leaves):
        return jnp.mean(model.apply({"params": combine(nested(rest), nested(leaves))}, x) ** 2)

    def through_kernel(leaves):
        return jnp.mean(module.apply({"params": dense_base(nested({**rest, **leaves}), jnp)}, x) ** 2)

    got, expected = jax.jit(jax.grad(through_side_path))(trains), jax.jit(jax.grad(through_kernel))(trains)
    assert_trees_close(got, expected, 5e-5)


@several_variants
def test_it_begins_as_the_base_it_is_put_on(case):
    base, x = strip(case.params()), case.x()
    params = adapt(jax.random.key(4), base, case.model(), x)
    assert all(flat(params)[path] is leaf for path, leaf in flat(base).items())
    assert_trees_close(case.apply()(params, x), case.base_apply()(base, x), 1e-6)
    assert_trees_close(merge(params), base, 1e-6)


@several_variants
def test_scale_zero_is_the_base(case):
    params, x = case.params(), case.x()
    assert_trees_close(case.apply()(scaled(params, 0.0), x), case.base_apply()(strip(params), x), 1e-6)
    assert_trees_close(scaled(params, 1.0), params, 1e-6)


def begun(name: str, **fields):
    """(the kernel as a matrix, its adapter, scale) of the one adapted layer of a case, on its base."""
    case = case_named(name).variant(**fields)
    base = strip(case.params())
    leaves = flat(adapter_of(adapt(jax.random.key(4), base, case.model(), case.x())))
    adapter = {path.rpartition("/")[2]: np.asarray(leaf, np.float64) for path, leaf in leaves.items()}
    kernel = np.asarray(next(leaf for path, leaf in flat(base).items() if path.endswith(("kernel", "embedding"))))
    return kernel, adapter


MATRICES = ["dense", "embed", "conv_2d_valid_strided", "einsum_transposed"]


@pytest.mark.parametrize("name", MATRICES)
def test_pissa_is_the_best_approximation_of_its_rank(name):
    kernel, adapter = begun(name, init="pissa")
    a, b = adapter["lora_a"], adapter["lora_b"]
    matrix = kernel.reshape(len(a), -1)
    rest = np.linalg.norm(matrix - adapter["lora_scale"] * a @ b)
    assert rest == pytest.approx(np.linalg.norm(np.linalg.svd(matrix)[1][2:]), rel=1e-5)  # Eckart and Young
    np.testing.assert_allclose(np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(a, adapter["lora_start_a"])
    np.testing.assert_array_equal(b, adapter["lora_start_b"])


@pytest.mark.parametrize("name", MATRICES)
def test_olora_has_orthonormal_rows_and_the_kernel_s_part_along_them(name):
    kernel, adapter = begun(name, init="olora")
    a, b = adapter["lora_a"], adapter["lora_b"]
    np.testing.assert_allclose(b @ b.T, np.eye(2), atol=1e-6)
    matrix = kernel.reshape(len(a), -1)
    q = np.linalg.qr(matrix.T)[0][:, :2]
    np.testing.assert_allclose(np.abs(q.T @ b.T), np.eye(2), atol=1e-5)  # the same directions, whatever their signs
    np.testing.assert_allclose(a @ b, matrix @ q @ q.T, atol=1e-5)


def test_orthogonal_factors_are_random_and_cancel():
    _, adapter = begun("dense", init="orthogonal")
    assert np.abs(adapter["lora_a"] @ adapter["lora_b"]).max() < 1e-7
    assert np.abs(adapter["lora_a"]).min() > 0
    assert np.abs(adapter["lora_b"]).min() > 0
    assert "lora_start_a" not in adapter


@pytest.mark.parametrize(
    ("name", "axes"), [("dense", 0), ("conv_2d_groups", (0, 1, 2)), ("embed", 0), ("einsum_transposed", (1, 2))]
)
def test_dora_begins_at_the_norms_over_what_the_layer_sums(name, axes):
    kernel, adapter = begun(name, dora=True)
    np.testing.assert_allclose(adapter["lora_magnitude"], np.sqrt((kernel**2).sum(axis=axes, keepdims=True)), rtol=1e-6)


def test_dora_keeps_the_norms_of_its_directions():
    """Liu et al. 2024, equation 5: the norms of the merged kernel are the magnitudes, whatever the factors."""
    params = case_named("dense").variant(dora=True).params()
    norms = np.linalg.norm(merge(params)["kernel"], axis=0, keepdims=True)
    np.testing.assert_allclose(norms, params["lora_magnitude"], rtol=1e-5)


def test_no_array_of_the_kernel_s_shape_in_a_dora_step():
    """Neither forward nor backward; the kernel itself is an input and a multiplicand."""
    d, k = 31, 37
    model = LoRA(nn.Dense(k), LoRAConfig(rank=2, targets="*", dora=True))
    params = model.init(jax.random.key(0), jnp.ones((1, d)))["params"]
    base, adapter = strip(params), adapter_of(params)

    def loss(adapter, x):
        return jnp.sum(model.apply({"params": combine(base, adapter)}, x) ** 2)

    jaxpr = jax.make_jaxpr(jax.grad(loss))(adapter, jnp.ones((5, d))).jaxpr
    made = [e.primitive.name for e in equations(jaxpr) for out in e.outvars if sorted(out.aval.shape) == [d, k]]
    assert made == []


def test_dora_and_dropout_run_the_base_once():
    d, k = 31, 37
    model = LoRA(nn.Dense(k), LoRAConfig(rank=2, targets="*", dora=True, dropout=0.5))
    x = jnp.ones((5, d))
    params = model.init(jax.random.key(0), x)["params"]
    run = jax.make_jaxpr(lambda p: model.apply({"params": p}, x, rngs={"dropout": jax.random.key(1)}))(params)

    whole = [
        e
        for e in equations(run.jaxpr)
        if e.primitive.name == "dot_general" and e.outvars[0].aval.shape == (5, k) and e.invars[1].aval.shape == (d, k)
    ]
    assert len(whole) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"init": "pisa"}, "'pissa'"),
        ({"init": "orthogonal", "rank": 3}, "must be even, and 3 is not"),
        ({"init": "orthogonal", "rank": 4, "rank_pattern": {"head": 1}}, "must be even, and 1 is not"),
        ({"dora": "yes"}, "True or False"),
    ],
)
def test_a_config_that_cannot_be_says_so(fields, message):
    with pytest.raises(LoRAError, match=message):
        LoRAConfig(**{"rank": 2, **fields})


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_rank_above_the_kernel_s_says_where(init):
    model = LoRA(nn.Dense(3), LoRAConfig(rank=4, targets="*", init=init))
    with pytest.raises(LoRAError, match="kernel.*no more than 3 directions; rank is 4"):
        model.init(jax.random.key(0), jnp.ones((1, 5)))


def zeros_column():
    """DoRA over a kernel of which one column is zero."""
    model = LoRA(nn.Dense(3), LoRAConfig(rank=2, targets="*", dora=True))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
    base = {"kernel": jnp.ones((4, 3)).at[:, 1].set(0), "bias": jnp.zeros(3)}
    return model, adapt(jax.random.key(0), base, model, x), x


def test_dora_of_a_zero_column_is_finite_and_learns():
    model, params, x = zeros_column()
    base, adapter = strip(params), adapter_of(params)

    def loss(adapter):
        return jnp.mean((model.apply({"params": combine(base, adapter)}, x) - 1) ** 2)

    assert_trees_close(model.apply({"params": params}, x), nn.Dense(3).apply({"params": base}, x), 1e-6)
    assert_trees_close(merge(params), base, 1e-6)
    for _ in range(5):
        gradient = jax.grad(loss)(adapter)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        adapter = {name: leaf - 0.1 * gradient[name] if name != "lora_norm" else leaf for name, leaf in adapter.items()}
    assert np.abs(merge(combine(base, adapter))["kernel"][:, 1]).max() > 1e-3


def test_dora_where_the_update_cancels_the_kernel_is_finite():
    model, params, x = zeros_column()
    u, s, v = np.linalg.svd(np.ones((4, 3)), full_matrices=False)
    gone = {
        **params,
        "kernel": jnp.ones((4, 3)),
        "lora_a": jnp.asarray(-u[:, :2] * s[:2]),
        "lora_b": jnp.asarray(v[:2]),
    }
    gone |= {"lora_scale": jnp.ones(()), "lora_norm": jnp.full((1, 3), 2.0), "lora_magnitude": jnp.full((1, 3), 2.0)}
    assert np.isfinite(model.apply({"params": jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gone)}, x)).all()


def test_a_small_change_of_magnitude_is_seen_in_bfloat16():
    case = case_named("dense").variant(dora=True)
    params = adapt(jax.random.key(0), strip(case.params()), case.model(), case.x())
    params = {**params, "lora_magnitude": params["lora_magnitude"] * 1.0115}  # between two numbers of bfloat16
    model, x = case.model(jnp.bfloat16), case.x()
    moved = model.apply({"params": {**params, "bias": jnp.zeros(5)}}, x).astype(jnp.float32)
    whole = case.apply()({**params, "bias": jnp.zeros(5)}, x)
    still = case.base_apply()({**strip(params), "bias": jnp.zeros(5)}, x)
    share = float(jnp.sum((moved - still) * still) / jnp.sum((whole - still) * still))
    assert 0.8 < share < 1.2  # of the change, the rest being rounding of the outputs


def test_merging_is_what_the_layer_computes_on_another_base_too():
    """An adapter on a base that is not the one its norms are of is refused; `rebase` takes them anew."""
    case = case_named("attention").variant(dora=True)
    params, x = case.params(), case.x()
    other = jax.tree.map(lambda leaf: leaf * 1.1, strip(params))
    with pytest.raises(LoRAError, match=r"other norms than the adapter beside it was made for.*lora_jax\.rebase"):
        combine(other, adapter_of(params))
    fitting = rebase(other, adapter_of(params))
    assert_trees_close(case.base_apply()(merge(fitting), x), case.apply()(fitting, x), 2e-5)
    assert_trees_close(case.apply()(scaled(fitting, 0.0), x), case.base_apply()(other, x), 1e-6)
    assert_trees_close(merge(fitting), dense_base(fitting), 2e-6)
    assert np.abs(case.apply()(fitting, x) - case.apply()(params, x)).max() > 1e-3


def test_a_kernel_with_a_magnitude_cannot_train_too():
    params = case_named("dense").variant(dora=True).params()
    with pytest.raises(LoRAError, match="whose cached norm would go stale"):
        trainable_mask(params, train="*")
