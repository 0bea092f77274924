"""Is merging W + scale * a @ b, pure, rounded once, and refused where it makes no sense?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import LoRAError, adapter_of, combine, merge, rounding_error, strip
from tests.cases import assert_trees_close, case_named, dense_base, every_case, flat, randomised

pytestmark = pytest.mark.usefixtures("quick_compile")


@every_case
def test_merged_kernels_are_those_of_numpy(case):
    assert_trees_close(merge(case.params()), dense_base(case.params()), 1e-6)


@every_case
def test_the_merged_base_answers_as_the_adapted_model(case):
    params, x = case.params(), case.x()
    assert_trees_close(case.base_apply()(merge(params), x), case.apply()(params, x))


def test_merging_is_pure_and_strip_gives_the_same_arrays_back():
    params = case_named("tied_scan_remat").params()
    before = jax.tree.map(np.array, params)
    merge(params)
    jax.tree.map(np.testing.assert_array_equal, params, before)
    assert all(leaf is flat(params)[path] for path, leaf in flat(strip(params)).items())


def test_the_sum_is_taken_in_float32_and_rounded_once():
    params = case_named("dense").params()
    half = {**params, "kernel": params["kernel"].astype(jnp.bfloat16)}
    expected = dense_base({**half, "kernel": half["kernel"].astype(jnp.float32)})["kernel"]
    got = merge(half)["kernel"]
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, jnp.asarray(expected).astype(jnp.bfloat16))


def test_merge_works_under_jit():
    params = case_named("attention").params()
    assert_trees_close(jax.jit(merge)(params), merge(params), 1e-6)


def base_tree(params):
    return strip(params)


def diverged(params):
    return {**params, "lora_b": params["lora_b"].at[0, 0].set(jnp.inf)}


def stacked_elsewhere(params):
    return {**params, "lora_scale": jnp.ones(3)}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (base_tree, "hold no adapter"),
        (merge, "merged already"),
        (adapter_of, "no kernel beside it"),
        (diverged, "kernel has non-finite values"),
        (stacked_elsewhere, "parts of different adapters at the root: .*lora_scale"),
    ],
)
def test_what_cannot_be_merged_is_refused(spoil, message):
    with pytest.raises(LoRAError, match=message):
        merge(spoil(case_named("dense").params()))


def test_order_of_two_merges_is_irrelevant():
    first = case_named("attention").params()
    second = adapter_of(randomised(first, seed=8))

    def merged_in_turn(*adapters):
        base = strip(first)
        for adapter in adapters:
            base = merge(combine(base, adapter))
        return base

    assert_trees_close(merged_in_turn(adapter_of(first), second), merged_in_turn(second, adapter_of(first)), 1e-6)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: {**p, "lora_a": jnp.ones((5, 2)), "lora_b": jnp.ones((2, 4))},
        lambda p: {**p, "lora_a": p["lora_a"].T},
        lambda p: {**p, "lora_b": p["lora_b"][:1]},
    ],
    ids=["of the transposed kernel", "a transposed", "ranks differ"],
)
def test_factors_of_another_kernel_are_refused(spoil):
    with pytest.raises(LoRAError, match="parts of different adapters at the root|of another layer, or transposed"):
        merge(spoil(case_named("dense").params()))


def test_the_rounding_of_a_merge_is_told():
    params = case_named("dense").params()
    assert rounding_error(params) == {"kernel": 0.0}
    half = {**params, "kernel": params["kernel"].astype(jnp.bfloat16)}
    whole = dense_base({**half, "kernel": half["kernel"].astype(jnp.float32)})["kernel"]
    expected = np.abs(np.asarray(merge(half)["kernel"], np.float32) - whole).max() / np.abs(whole).max()
    assert rounding_error(half)["kernel"] == pytest.approx(expected, rel=1e-3)
    assert 0 < expected < 2**-8
