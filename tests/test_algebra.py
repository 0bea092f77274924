"""Algebra of adapters: the sums, means and truncations that numpy gives for the products, or a refusal."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import LoRAError, adapter_of, algebra, rebase, scaled, spectrum
from tests.cases import assert_trees_close, case_named, flat, randomised

NAMES = ("dense", "attention", "tied_scan_remat", "conv_2d_groups")


def drawn(name: str = "dense", seed: int = 3, **fields) -> dict:
    """An adapter of random factors; the scale is another one in every layer."""
    case = case_named(name).variant(**fields) if fields else case_named(name)
    return adapter_of(randomised(case.params(), seed))


def updates(adapter) -> dict[str, np.ndarray]:
    """`scale * (a @ b - start)` by numpy, in float64."""
    leaves, found = {path: np.asarray(leaf, np.float64) for path, leaf in flat(adapter).items()}, {}
    for module in [path.removesuffix("lora_a") for path in leaves if path.endswith("lora_a")]:
        product = leaves[module + "lora_a"] @ leaves[module + "lora_b"]
        if module + "lora_start_a" in leaves:
            product = product - leaves[module + "lora_start_a"] @ leaves[module + "lora_start_b"]
        found[module] = leaves[module + "lora_scale"][..., None, None] * product
    return found


def summed(adapters, weights) -> dict:
    found: dict = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for module, update in updates(adapter).items():
            found[module] = found.get(module, 0) + weight * update
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "fields", [{}, {"scaling": "alpha/sqrt(r)"}, {"scaling": "constant"}, {"init": "pissa"}], ids=str
)
def test_one_adapter_with_weight_one_is_itself(name, fields):
    adapter = drawn(name, **fields)
    got = algebra.combine([adapter], [1.0])
    assert_trees_close(updates(got), updates(adapter), 1e-6)
    if "init" not in fields:
        assert_trees_close(got, adapter, 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_concatenation_is_the_weighted_sum_whatever_the_ranks(name):
    adapters, weights = (
        [drawn(name, 3), drawn(name, 4, rank=3, scaling="alpha/sqrt(r)"), drawn(name, 5, init="olora")],
        [0.5, -2.0, 1.5],
    )
    assert_trees_close(updates(algebra.combine(adapters, weights)), summed(adapters, weights), 1e-5)


def test_sums_means_and_interpolation():
    one, other = drawn(seed=3), drawn(seed=4, rank=3)
    assert_trees_close(updates(algebra.add(one, other)), summed([one, other], [1, 1]), 1e-6)
    assert_trees_close(updates(algebra.average(one, other)), summed([one, other], [0.5, 0.5]), 1e-6)
    assert_trees_close(updates(algebra.interpolate(one, other, 0.3)), summed([one, other], [0.7, 0.3]), 1e-6)


def test_an_adapter_minus_itself_is_nothing():
    adapter = drawn("attention")
    left = updates(algebra.combine([adapter, adapter], [1.0, -1.0]))
    assert max(np.abs(update).max() for update in left.values()) < 1e-6


def test_a_first_adapter_that_is_switched_off_does_not_switch_off_the_others():
    off, other = adapter_of(scaled(drawn(seed=3), 0.0)), drawn(seed=4)
    assert_trees_close(updates(algebra.combine([off, other], [1.0, 1.0])), updates(other), 1e-6)


def test_layers_that_only_some_have_count_as_zero_in_the_others():
    adapter = drawn("attention")
    part = {"attention": {"query": adapter["attention"]["query"]}}
    got = updates(algebra.add(adapter, part))
    expected = {m: (2 if m == "attention/query/" else 1) * update for m, update in updates(adapter).items()}
    assert_trees_close(got, expected, 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_recompression_loses_the_tail_of_the_singular_values(name):
    adapter = drawn(name, rank=4)
    got = algebra.recompress(adapter, 2)
    for module, update in updates(adapter).items():
        tail = np.linalg.svd(update, compute_uv=False)[..., 2:]
        lost = np.linalg.norm(update - updates(got)[module], axis=(-2, -1))
        np.testing.assert_allclose(lost, np.sqrt((tail**2).sum(-1)), rtol=1e-5, atol=1e-5)
        assert flat(got)[module + "lora_a"].shape[-1] == min(2, *update.shape[-2:])


@pytest.mark.parametrize("name", NAMES)
def test_the_spectrum_is_that_of_the_products(name):
    adapter = drawn(name, init="pissa")
    for module, values in spectrum(adapter).items():
        update = updates(adapter)[f"{module}/".lstrip("/")]
        np.testing.assert_allclose(values, np.linalg.svd(update, compute_uv=False)[..., : values.shape[-1]], atol=1e-6)


def test_ties_keeps_the_largest_elects_signs_and_averages_those_that_agree():
    adapters, weights = [drawn(seed=s) for s in (3, 4, 5)], [1.0, 0.5, 2.0]
    got = updates(algebra.ties(adapters, weights, density=0.5, rank=4))[""]
    kept = []
    for adapter, weight in zip(adapters, weights, strict=True):
        update = weight * updates(adapter)[""]
        least = np.sort(np.abs(update).ravel())[-update.size // 2]
        kept.append(np.where(np.abs(update) >= least, update, 0))
    total = sum(kept)
    expected = np.zeros_like(total)
    for i in np.ndindex(*total.shape):
        agreeing = [update[i] for update in kept if update[i] * total[i] > 0]
        expected[i] = np.mean(agreeing) if agreeing else 0
    np.testing.assert_allclose(got, expected, atol=1e-5)  # rank 4 is all of a 4 x 5 matrix


def test_dare_keeps_the_mean_of_every_update():
    adapters, weights = [drawn(seed=s) for s in (3, 4)], [1.0, -0.5]
    draws = jax.jit(jax.vmap(lambda key: algebra.dare(key, adapters, weights, density=0.4, rank=4)))(
        jax.random.split(jax.random.key(0), 3000)
    )
    products = np.asarray(draws["lora_a"] @ draws["lora_b"])
    error = products.std(0) / np.sqrt(len(products))
    assert np.all(np.abs(products.mean(0) - summed(adapters, weights)[""]) < 5 * error + 1e-6)
    assert error.min() > 1e-4


def test_dare_that_drops_nothing_is_the_sum():
    adapters = [drawn(seed=s) for s in (3, 4)]
    got = algebra.dare(jax.random.key(0), adapters, [1.0, 2.0], density=1.0, rank=4)
    assert_trees_close(updates(got), summed(adapters, [1.0, 2.0]), 1e-5)


def of_another_base():
    return algebra.add(drawn("dense"), drawn("embed"))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: algebra.add(drawn(dora=True)), "DoRA"),
        (lambda: algebra.recompress(drawn(dora=True), 1), "DoRA"),
        (lambda: algebra.combine([drawn()], [1, 2]), "1 adapters and 2 weights"),
        (lambda: algebra.combine([], []), "0 adapters"),
        (of_another_base, "different bases"),
        (lambda: algebra.recompress(drawn(), 0), "rank is 0"),
        (lambda: algebra.ties([drawn()], [1.0], density=0.0, rank=1), "density is 0.0"),
        (lambda: algebra.dare(jax.random.key(0), [drawn()], [1.0], density=1.5, rank=1), "density is 1.5"),
        (
            lambda: algebra.add(
                dict(case_named("dense").build(jnp.float32).init(jax.random.key(0), jnp.ones((1, 4)))["params"])
            ),
            "hold no adapter",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(act, message):
    with pytest.raises(LoRAError, match=message):
        act()


def with_a_head() -> dict:
    return {"hidden": drawn(), "head": {"kernel": jnp.ones((5, 2)), "bias": jnp.ones(2)}}


@pytest.mark.parametrize(
    "act",
    [
        lambda tree: algebra.combine([tree, tree], [1, 1]),
        lambda tree: algebra.recompress(tree, 1),
        lambda tree: algebra.ties([tree], [1], density=0.5, rank=1),
        lambda tree: algebra.dare(jax.random.key(0), [tree], [1], density=0.5, rank=1),
        lambda tree: rebase({"hidden": {"kernel": jnp.ones((4, 5))}, "head": with_a_head()["head"]}, tree),
    ],
    ids=["combine", "recompress", "ties", "dare", "rebase"],
)
def test_a_head_that_came_along_is_not_dropped_in_silence(act):
    with pytest.raises(LoRAError, match="comes with head/kernel, head/bias, which would be left out"):
        act(with_a_head())
    with pytest.raises(LoRAError, match="comes with hidden/bias"):
        act({"hidden": {**drawn(), "bias": jnp.ones(5)}})
    assert set(flat(act(adapter_of(with_a_head())))) >= {"hidden/lora_a", "hidden/lora_b", "hidden/lora_scale"}


def test_of_whole_trees_the_adapters_are_taken():
    whole = case_named("attention").params()
    assert_trees_close(algebra.add(whole, whole), algebra.add(adapter_of(whole), adapter_of(whole)), 1e-6)


finite = st.floats(-3, 3, width=32)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 99), finite), min_size=1, max_size=4))
def test_any_combination_is_the_sum_of_its_parts(parts):
    random = [np.random.default_rng(seed) for _, seed, _ in parts]
    adapters = [
        {
            "lora_a": jnp.asarray(g.normal(size=(6, r)), jnp.float32),
            "lora_b": jnp.asarray(g.normal(size=(r, 5)), jnp.float32),
            "lora_scale": jnp.asarray(g.uniform(0, 2), jnp.float32),
        }
        for g, (r, _, _) in zip(random, parts, strict=True)
    ]
    weights = [w for _, _, w in parts]
    got = updates(algebra.combine(adapters, weights))[""]
    np.testing.assert_allclose(got, summed(adapters, weights)[""], atol=2e-4)


@pytest.mark.parametrize("rank", [0, -1, 1.5])
def test_a_rank_that_cannot_be_says_so(rank):
    for act in (
        lambda: algebra.recompress(drawn(), rank),
        lambda: algebra.ties([drawn()], [1.0], density=0.5, rank=rank),
        lambda: algebra.dare(jax.random.key(0), [drawn()], [1.0], density=0.5, rank=rank),
    ):
        with pytest.raises(LoRAError, match=f"rank is {rank}"):
            act()


def test_no_adapters_have_no_mean():
    with pytest.raises(LoRAError, match="0 adapters"):
        algebra.average()


def test_adapters_in_bfloat16_are_added_in_float32():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), drawn("attention"))
    got = algebra.recompress(algebra.add(half, half), 3)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(got)} == {"float32"}
    assert_trees_close(updates(got), summed([half, half], [1, 1]), 0.2)
