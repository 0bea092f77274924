"""QLoRA: is the base what the format says, by a route in numpy; is it that base which the model runs, trains over and merges?"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import lora_jax
from lora_jax import LoRAError, adapt, adapter_of, combine, merge, partition, quantised, strip, trainable_mask, training
from lora_jax import nnx as lora_nnx
from lora_jax.quantised import BLOCK, NF4
from tests.cases import assert_trees_close, case_named, dense_base, flat
from tests.nnx_cases import CASES as NNX_CASES
from tests.test_variants import nested

pytestmark = pytest.mark.usefixtures("quick_compile")
every_format = pytest.mark.parametrize(
    ("method", "double"), [("nf4", False), ("nf4", True), ("int8", False), ("int8", True)]
)


def test_the_levels_are_quantiles_of_a_normal_distribution():
    """Dettmers et al. 2023, equation 4: halves with 8 and 7 quantiles, and a zero between them."""
    offset = 1 - (1 / 32 + 1 / 30) / 2
    upper = scipy.stats.norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    lower = -scipy.stats.norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    levels = np.sort(np.concatenate([upper, [0], lower]))
    np.testing.assert_allclose(NF4, levels / levels.max(), atol=1e-6)


def by_numpy(kernel: np.ndarray, method: str) -> np.ndarray:
    """Block by block, by the smallest distance."""
    out = np.empty(kernel.size)
    for start in range(0, kernel.size, BLOCK):
        block = kernel.ravel()[start : start + BLOCK].astype(np.float64)
        largest = np.abs(block).max()
        levels = np.asarray(NF4) if method == "nf4" else np.arange(-127, 128) / 127
        out[start : start + BLOCK] = levels[np.abs(block[:, None] / largest - levels[None]).argmin(1)] * largest
    return out.reshape(kernel.shape)


@pytest.mark.parametrize("shape", [(64, 64), (7, 5), (3, 3, 4, 10), (130, 3)])
@pytest.mark.parametrize("method", ["nf4", "int8"])
def test_values_are_the_nearest_of_their_block(method, shape):
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    got = quantised.rounded(jnp.asarray(kernel), len(shape), method=method, double=False)
    np.testing.assert_allclose(got.unbox(), by_numpy(kernel, method), atol=1e-6)
    assert got.shape == shape


def test_double_quantisation_costs_little_and_saves_what_the_paper_says():
    kernel = jax.random.normal(jax.random.key(0), (512, 512))
    single, double = (quantised.rounded(kernel, 2, method="nf4", double=d) for d in (False, True))
    errors = [float(jnp.sqrt(jnp.mean((q.unbox() - kernel) ** 2))) for q in (single, double)]
    assert errors[1] < 1.02 * errors[0]
    assert 8 * single.nbytes / kernel.size == 4.5
    assert 8 * double.nbytes / kernel.size == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=1e-3)  # 4.127


def test_blocks_of_zeros_and_of_tiny_values_stay_finite():
    kernel = jnp.concatenate(
        [jnp.zeros((4, 64)), jnp.full((4, 64), 1e-20), jax.random.normal(jax.random.key(0), (4, 64))]
    )
    for method in ("nf4", "int8"):
        got = quantised.rounded(kernel, 2, method=method, double=True).unbox()
        assert np.all(np.isfinite(got))
        assert np.abs(got[:8]).max() < 0.02


CASES = [case_named(name) for name in ("dense", "attention", "tied_scan_remat", "conv_2d_groups", "einsum_transposed")]
CASES += [CASES[1].variant(dora=True), CASES[2].variant(init="pissa")]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def small(case, **kwargs):
    """(adapted parameters over a quantised base, the same over what its kernels are rounded to)."""
    layout = lora_jax.layout(case.build(jnp.float32), case.x())
    base = quantised.quantise(
        strip(case.params()), layout, targets="*", excludes="embed" if case.vocab else (), **kwargs
    )
    opened = {
        path: leaf.unbox() if isinstance(leaf, quantised.Quantised) else leaf for path, leaf in flat(base).items()
    }
    adapter = adapter_of(adapt(jax.random.key(0), base, case.model(), case.x()))
    moved = nested({p: leaf + 0.1 if p.endswith(("lora_a", "lora_b")) else leaf for p, leaf in flat(adapter).items()})
    return combine(base, moved), combine(nested(opened), moved)


@every_case
@every_format
def test_the_model_runs_what_the_kernels_are_rounded_to(case, method, double):
    params, opened = small(case, method=method, double=double)
    assert any(isinstance(leaf, quantised.Quantised) for leaf in flat(params).values())
    assert_trees_close(case.apply()(params, case.x()), case.apply()(opened, case.x()), 1e-6)
    assert_trees_close(merge(params), dense_base(opened), 2e-6)


def test_biases_and_what_is_excluded_stay_as_they_are():
    case = CASES[1]
    base = strip(case.params())
    layout = lora_jax.layout(case.build(jnp.float32), case.x())
    got = flat(quantised.quantise(base, layout, excludes="out"))
    changed = {path for path, leaf in flat(base).items() if got[path] is not leaf}
    assert changed == {f"attention/{name}/kernel" for name in ("query", "key", "value")}


def test_rounding_again_changes_nothing():
    kernel = quantised.rounded(jax.random.normal(jax.random.key(0), (64, 5)), 2, method="nf4", double=False).unbox()
    again = quantised.rounded(kernel, 2, method="nf4", double=False).unbox()
    np.testing.assert_allclose(again, kernel, rtol=1e-6)


def test_only_the_adapter_trains_over_a_quantised_base():
    case = CASES[2]
    params, _ = small(case)
    frozen, trainable = partition(params, trainable_mask(params))
    before = jax.tree.map(np.array, frozen)

    def loss_fn(params, batch, key):
        return jnp.mean(case.model().apply({"params": params}, batch) ** 2), None

    tx = optax.adam(1e-2)
    state = training.init_state(trainable, tx, jax.random.key(0))
    step = training.make_train_step(loss_fn, tx)
    losses = []
    for _ in range(5):
        state, (loss, _) = step(state, frozen, case.x())
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    jax.tree.map(np.testing.assert_array_equal, frozen, before)


def test_members_of_a_sweep_have_quantised_bases_of_their_own():
    kernel = jax.random.normal(jax.random.key(0), (3, 20, 30))
    got = quantised.rounded(kernel, 2, method="nf4", double=True)
    assert got.shape == kernel.shape
    jax.vmap(lambda one: one.unbox())(got)
    np.testing.assert_array_equal(jax.vmap(lambda one: one.unbox())(got), got.unbox())
    alone = quantised.rounded(kernel[1], 2, method="nf4", double=True)
    np.testing.assert_allclose(got.unbox()[1], alone.unbox(), atol=1e-6)


def test_an_nnx_model_runs_it_too():
    case = next(case for case in NNX_CASES if case.name == "attention")
    model = case.model()
    base = quantised.quantise(model.base_params, model.layout)
    opened = nested(
        {p: leaf.unbox() if isinstance(leaf, quantised.Quantised) else leaf for p, leaf in flat(base).items()}
    )
    params = combine(base, adapter_of(case.params()))
    assert isinstance(model, lora_nnx.LoRA)
    expected = model.apply({"params": combine(opened, adapter_of(case.params()))}, case.x())
    assert_trees_close(model.apply({"params": params}, case.x()), expected, 1e-6)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"method": "int4"}, "must be one of 'int8', 'nf4'"),
        ({"targets": "qury"}, "closest to 'qury'"),
        ({"targets": "*", "excludes": "*"}, "leaves nothing"),
    ],
)
def test_what_cannot_be_quantised_says_so(kwargs, message):
    case = CASES[1]
    with pytest.raises(LoRAError, match=message):
        quantised.quantise(strip(case.params()), lora_jax.layout(case.build(jnp.float32), case.x()), **kwargs)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_kernel_that_is_not_finite_is_named_and_refused(value):
    layout = {"head": lora_jax.layout(nn.Dense(5), jnp.ones((1, 4)))[""]}
    kernel = jnp.ones((4, 5))
    assert jnp.isfinite(quantised.quantise({"head": {"kernel": kernel}}, layout)["head"]["kernel"].unbox()).all()
    with pytest.raises(LoRAError, match="head/kernel has entries that are infinite or NaN"):
        quantised.quantise({"head": {"kernel": kernel.at[1, 2].set(value)}}, layout)
    jax.eval_shape(lambda base: quantised.quantise(base, layout), {"head": {"kernel": kernel}})


def test_what_is_quantised_cannot_train_nor_be_quantised_again():
    case = CASES[1]
    base, layout = strip(case.params()), lora_jax.layout(case.build(jnp.float32), case.x())
    small = quantised.quantise(base, layout)
    with pytest.raises(LoRAError, match="is quantised already"):
        quantised.quantise(small, layout)
    with pytest.raises(LoRAError, match="is quantised, so it cannot train"):
        trainable_mask(small, train="*")
