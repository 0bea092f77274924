"""Is every leaf in exactly one part, and is the adapted tree the one that a reader expects?"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import LoRA, LoRAConfig, LoRAError, combine, partition, trainable_mask
from lora_jax.models.mlp import MLP
from tests.cases import case_named, every_case, flat

pytestmark = pytest.mark.usefixtures("quick_compile")

CONFIG = LoRAConfig(rank=2, rank_pattern={"classifier": 1})


@functools.cache
def mlp_params():
    return jax.jit(LoRA(MLP(hidden=(4,), classes=3), CONFIG).init)(jax.random.key(0), jnp.ones((1, 5)))["params"]


def literal(tree):
    """Leaves as "dtype[shape]"."""
    return jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", dict(tree))


def test_the_adapted_tree_as_a_literal():
    assert literal(mlp_params()) == {
        "hidden_0": {
            "kernel": "float32[5, 4]",
            "bias": "float32[4]",
            "lora_a": "float32[5, 2]",
            "lora_b": "float32[2, 4]",
            "lora_scale": "float32[]",
        },
        "classifier": {
            "kernel": "float32[4, 3]",
            "bias": "float32[3]",
            "lora_a": "float32[4, 1]",
            "lora_b": "float32[1, 3]",
            "lora_scale": "float32[]",
        },
    }


def test_the_scanned_tied_tree_as_a_literal():
    assert literal(case_named("tied_scan_remat").params()) == {
        "embed": {
            "embedding": "float32[7, 4]",
            "lora_a": "float32[7, 2]",
            "lora_b": "float32[2, 4]",
            "lora_scale": "float32[]",
        },
        "blocks": {
            "LayerNorm_0": {"scale": "float32[3, 4]", "bias": "float32[3, 4]"},
            "up": {
                "kernel": "float32[3, 4, 6]",
                "bias": "float32[3, 6]",
                "lora_a": "float32[3, 4, 2]",
                "lora_b": "float32[3, 2, 6]",
                "lora_scale": "float32[3]",
            },
            "down": {
                "kernel": "float32[3, 6, 4]",
                "bias": "float32[3, 4]",
                "lora_a": "float32[3, 6, 2]",
                "lora_b": "float32[3, 2, 4]",
                "lora_scale": "float32[3]",
            },
        },
    }


def test_the_mask_as_a_literal():
    assert trainable_mask(mlp_params(), train=("classifier",)) == {
        "hidden_0": {"kernel": False, "bias": False, "lora_a": True, "lora_b": True, "lora_scale": False},
        "classifier": {"kernel": True, "bias": True, "lora_a": True, "lora_b": True, "lora_scale": False},
    }


@pytest.mark.parametrize(
    ("train", "heads"),
    [
        ((), set()),
        ("classifier", {"classifier/kernel", "classifier/bias"}),
        ("classifier/kernel", {"classifier/kernel"}),
        ("*/bias", {"classifier/bias", "hidden_0/bias"}),
        ("re:hidden_.*", {"hidden_0/kernel", "hidden_0/bias"}),
        ("*", {"classifier/kernel", "classifier/bias", "hidden_0/kernel", "hidden_0/bias"}),
    ],
)
def test_heads_are_named_as_targets_are(train, heads):
    adapters = {f"{module}/{leaf}" for module in ("hidden_0", "classifier") for leaf in ("lora_a", "lora_b")}
    mask = flat(trainable_mask(mlp_params(), train=train))
    assert {path for path, trains in mask.items() if trains} == heads | adapters


def two_layers() -> dict:
    """One with an adapter and a bias, one with a bias alone, one with an adapter alone."""
    adapter = {name: jnp.ones(()) for name in ("lora_a", "lora_b", "lora_scale")}
    return {"one": {"bias": jnp.ones(2), **adapter}, "two": {"bias": jnp.ones(2)}, "three": adapter}


@pytest.mark.parametrize(
    ("bias", "expected"), [("none", set()), ("lora_only", {"one/bias"}), ("all", {"one/bias", "two/bias"})]
)
def test_biases_train_by_choice(bias, expected):
    mask = flat(trainable_mask(two_layers(), bias=bias))
    assert {path for path, trains in mask.items() if trains and path.endswith("bias")} == expected


@pytest.mark.parametrize(
    ("params", "bias", "message"),
    [
        (two_layers(), "some", "'none', 'lora_only', 'all'"),
        ({"three": two_layers()["three"], "two": two_layers()["two"]}, "lora_only", "no adapted layer has a bias"),
        ({"three": two_layers()["three"]}, "all", "the model has no bias"),
    ],
)
def test_a_choice_of_biases_that_selects_nothing_says_so(params, bias, message):
    with pytest.raises(LoRAError, match=message):
        trainable_mask(params, bias=bias)


@every_case
def test_combine_undoes_partition(case):
    params = case.params()
    frozen, trainable = partition(params, trainable_mask(params))
    jax.tree.map(np.testing.assert_array_equal, combine(frozen, trainable), dict(params))
    assert {path.rpartition("/")[2] for path in flat(trainable)} == {"lora_a", "lora_b"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: trainable_mask(p, train="clasifier"), "'clasifier' matches no parameter.*closest: classifier"),
        (lambda p: trainable_mask(p, train=("classifier", "lora_a")), "'lora_a' matches no parameter"),
        (lambda p: trainable_mask({"dense": {"kernel": jnp.ones(2)}}), "nothing would train"),
        (lambda p: partition(p, {"hidden_0": True}), "not of the tree"),
        (lambda p: partition(p, jax.tree.map(lambda leaf: 1, p)), "tree of booleans"),
        (lambda p: partition(p, jax.tree.map(lambda leaf: "yes", p)), "tree of booleans"),
        (lambda p: combine(p, p), "in two of the trees"),
    ],
    ids=["unknown_head", "adapter_as_head", "nothing", "other_tree", "ones", "strings", "twice"],
)
def test_bad_masks_are_refused(call, message):
    with pytest.raises(LoRAError, match=message):
        call(mlp_params())


def test_numpy_booleans_are_booleans():
    assert partition({"a": 1, "b": 2}, {"a": np.True_, "b": np.False_}) == ({"b": 2}, {"a": 1})
