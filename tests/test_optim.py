"""Does the optimiser hold state for, and move, exactly what trains?"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lora_jax import (
    LoRA,
    LoRAConfig,
    LoRAError,
    adapt,
    combine,
    lora_optimizer,
    lora_plus,
    partition,
    report,
    trainable_mask,
)
from lora_jax.elementwise import require_elementwise
from lora_jax.models.mlp import MLP
from lora_jax.products.replay import Use
from lora_jax.products.site import Site
from tests.cases import flat, randomised

pytestmark = pytest.mark.usefixtures("quick_compile")

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5)), jnp.float32)
MODEL = LoRA(MLP(hidden=(4,), classes=3), LoRAConfig(rank=2))


@functools.cache
def start():
    base = jax.jit(MODEL.base_module.init)(jax.random.key(0), X)["params"]
    params = randomised(adapt(jax.random.key(1), base, MODEL, X), seed=3)
    return params, trainable_mask(params, train="classifier")


def loss(params):
    return jnp.mean(jnp.sin(MODEL.apply({"params": params}, X)) ** 2)


def trained(optimizer, steps=3):
    """(params before, params after, mask), through gradients of the *whole* tree."""
    params, mask = start()
    tx = lora_optimizer(optimizer, mask)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    after, state = params, tx.init(params)
    for _ in range(steps):
        after, state = step(after, state)
    return params, after, mask


@pytest.mark.parametrize(
    "optimizer", [optax.adamw(1e-2, weight_decay=0.3), optax.sgd(0.1, momentum=0.9), optax.lion(1e-3)]
)
def test_the_base_stays_bitwise_and_everything_else_moves(optimizer):
    before, after, mask = trained(optimizer)
    for path, trains in flat(mask).items():
        old, new = np.asarray(flat(before)[path]), np.asarray(flat(after)[path])
        assert np.any(old != new) == trains, path


def test_updates_of_the_base_are_zero():
    params, mask = start()
    tx = lora_optimizer(optax.adamw(1e-2, weight_decay=0.3), mask)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(dict(params))
    assert {path for path, update in flat(updates).items() if np.any(update)} == {
        p for p, on in flat(mask).items() if on
    }


@pytest.mark.parametrize("whole_tree", [True, False])
def test_adam_state_is_eight_bytes_per_trainable_parameter(whole_tree):
    params, mask = start()
    tree = params if whole_tree else partition(params, mask)[1]
    state = lora_optimizer(optax.adam(1e-3), mask).init(tree)
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(state)]
    assert sum(sizes) == 2 * 4 * report(params, mask).trainable + 4  # and a step count
    assert report(params, mask).trainable == 2 * (5 + 4) + 2 * (4 + 3) + 4 * 3 + 3


def test_the_trainable_tree_alone_gives_the_same_updates():
    params, mask = start()
    tx = lora_optimizer(optax.adamw(1e-2), mask)
    frozen, trainable = partition(params, mask)
    gradients = jax.jit(jax.grad(loss))(params)
    whole, _ = tx.update(gradients, tx.init(params), params)
    part, _ = tx.update(partition(gradients, mask)[1], tx.init(trainable), trainable)
    jax.tree.map(np.testing.assert_array_equal, partition(whole, mask)[1], part)
    assert combine(frozen, part).keys() == params.keys()


def test_a_mask_of_numpy_booleans_works():
    tx = lora_optimizer(optax.sgd(1.0), {"w": np.False_, "head": np.True_})
    params = {"w": jnp.ones(2), "head": jnp.ones(2)}
    updates, _ = tx.update(params, tx.init(params), params)
    assert {name: update.tolist() for name, update in updates.items()} == {"w": [0.0, 0.0], "head": [-1.0, -1.0]}


@pytest.mark.parametrize(
    ("mask", "message"), [({"w": False}, "trains nothing"), ({"w": 1}, "booleans"), ({"w": "yes"}, "booleans")]
)
def test_a_useless_mask_is_refused(mask, message):
    with pytest.raises(LoRAError, match=message):
        lora_optimizer(optax.sgd(1.0), mask)


def test_a_mask_of_another_tree_is_refused():
    params, mask = start()
    with pytest.raises(LoRAError, match="not of the tree"):
        lora_optimizer(optax.adam(1e-3), mask).init({**params, "extra": jnp.ones(2)})


def test_lora_plus_is_another_learning_rate_for_b_alone():
    params, mask = start()
    plain = lora_optimizer(optax.adamw(1e-2, weight_decay=0.3), mask)
    plus = lora_optimizer(optax.chain(optax.adamw(1e-2, weight_decay=0.3), lora_plus(16)), mask)
    fast = lora_optimizer(optax.adamw(16e-2, weight_decay=0.3), mask)
    gradient = jax.jit(jax.grad(loss))(params)
    of = {
        name: flat(tx.update(gradient, tx.init(params), params)[0])
        for name, tx in (("plain", plain), ("plus", plus), ("fast", fast))
    }
    for path, update in of["plus"].items():
        same = "fast" if path.endswith("lora_b") else "plain"
        np.testing.assert_allclose(update, of[same][path], rtol=1e-5)
    assert any(path.endswith("lora_b") and np.any(update) for path, update in of["plus"].items())


def test_lora_plus_keeps_padded_ranks_possible():
    require_elementwise(lambda rate: optax.chain(optax.adamw(rate), lora_plus(8)))


@pytest.mark.parametrize("ratio", [0, -1.0, float("nan")])
def test_a_ratio_that_is_not_positive_says_so(ratio):
    with pytest.raises(LoRAError, match="it must be positive"):
        lora_plus(ratio)


def test_lora_plus_takes_the_factor_that_starts_at_zero_where_the_layout_tells():
    layout = {
        "embed": Site("embed/embedding", (7, 4), "float32", "io", uses=[Use("gather", roles="io")]),
        "out": Site("out/kernel", (5, 2, 4), "float32", "oii"),
        "dense": Site("dense/kernel", (4, 5), "float32", "io"),
    }
    updates = {name: {"lora_a": jnp.ones(()), "lora_b": jnp.ones(())} for name in layout}
    got, _ = lora_plus(4, layout).update(updates, optax.EmptyState())
    assert {name for name in layout if got[name]["lora_a"] == 4 and got[name]["lora_b"] == 1} == {"embed", "out"}
    assert got["dense"] == {"lora_a": 1, "lora_b": 4}
