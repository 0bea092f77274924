"""Inputs that gave a wrong number without a word: each is right now, or refused by a sentence."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lora_jax
from lora_jax import LoRA, LoRAConfig, LoRAError, adapter_of, algebra, mesh, quantised, sweep, training
from tests.cases import randomised

pytestmark = pytest.mark.usefixtures("quick_compile", "as_users_run_it")
KEY, X = jax.random.key(0), jax.random.normal(jax.random.key(5), (4, 8))
LAYER = nn.Dense(4)
BASE = LAYER.init(KEY, X)["params"]
LAYOUT = lora_jax.layout(LAYER, X)


def made(**fields):
    model = LoRA(LAYER, LoRAConfig(rank=2, targets="*", **fields))
    return model, randomised(lora_jax.adapt(KEY, BASE, model, X), 3)


MODEL, PARAMS = made()
DORA, DORA_PARAMS = made(dora=True)
TX = optax.sgd(0.1)
DOUBLED = jax.tree.map(lambda leaf: 2 * leaf, BASE)


def loss_fn(params, batch, key):
    return jnp.mean(MODEL.apply({"params": params}, batch) ** 2), {}


def fresh():
    frozen, trainable = lora_jax.partition(PARAMS, lora_jax.trainable_mask(PARAMS))
    return training.init_state(trainable, TX, KEY), frozen


def epoch(order, data=X):
    return training.make_epoch(loss_fn, TX)(*fresh(), data, order)


def evaluated(data=X, batch_size=2, metric=lambda params, batch: batch.sum(-1)):
    return training.make_evaluation(metric, batch_size)(PARAMS, data)


def with_leaf(**leaves):
    return {**PARAMS, **leaves}


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: epoch(jnp.array([[0, 4]])), "the order has the row 4, and the data has 0 to 3"),
        (lambda: epoch(jnp.array([[0, -1]])), "the order has the row -1"),
        (lambda: epoch(jnp.array([[0.0, 1.0]])), "must be integers"),
        (lambda: epoch(jnp.array([[0, 1]]), {"x": X, "y": X[:3]}), "the same number of rows, 1 or more"),
        (lambda: evaluated({"x": X, "y": X[:3]}), "the same number of rows, 1 or more"),
        (lambda: evaluated(X[:0]), "the same number of rows, 1 or more"),
        (lambda: evaluated(batch_size=0), "batch_size is 0"),
        (lambda: evaluated(metric=lambda params, batch: batch.sum()), "one entry for each of the 2 examples"),
        (lambda: training.epoch_order(KEY, 0, 10, 2.5), "batch_size is 2.5"),
        (lambda: training.epoch_order(KEY, -1, 10, 2), "epoch is -1"),
        (lambda: training.epoch_order(0, 0, 10, 2), "the key is an int"),
        (lambda: lora_jax.report(PARAMS, {"kernel": True}), "the mask is not of the tree"),
        (lambda: lora_jax.report({}), "the tree is empty"),
        (lambda: lora_jax.spectrum(BASE), "hold no adapter"),
        (lambda: lora_jax.spectrum(with_leaf(lora_a=jnp.ones((8, 1)))), "parts of different adapters"),
        (lambda: algebra.recompress(adapter_of(with_leaf(lora_a=jnp.ones((8, 1)))), 1), "parts of different adapters"),
        (lambda: lora_jax.report(with_leaf(lora_a=PARAMS["lora_a"][:4])), "does not fit"),
        (lambda: lora_jax.merge(with_leaf(kernel=jnp.ones((8, 4), int))), "its kernel is no array of floating-point"),
        (lambda: lora_jax.rebase({**BASE, "kernel": jnp.ones((8, 4), int)}, adapter_of(PARAMS)), "its kernel is no array of floating-point"),
        (lambda: lora_jax.rebase({**BASE, "kernel": BASE["kernel"] * jnp.nan}, adapter_of(DORA_PARAMS)), "infinite or NaN"),
        (lambda: quantised.quantise({**BASE, "kernel": jnp.ones((8, 4), int)}, LAYOUT), "of floats"),
        (lambda: quantised.quantise({**BASE, "kernel": BASE["kernel"].T}, LAYOUT), "it is of another model"),
        (lambda: quantised.quantise(DORA_PARAMS, LAYOUT), "quantise lora_jax.strip"),
        (lambda: lora_jax.scaled(PARAMS, 1e60), "which float32 holds"),
        (lambda: lora_jax.scaled(PARAMS, True), "the factor is True"),
        (lambda: algebra.average(PARAMS, with_leaf(lora_b=PARAMS["lora_b"] * jnp.nan)), "infinite or NaN at lora_b"),
        (lambda: algebra.combine([PARAMS], [np.nan]), "weights.0. is nan"),
        (lambda: algebra.interpolate(PARAMS, PARAMS, np.inf), "weights.0. is"),
        (lambda: algebra.ties([PARAMS], [1], density=np.nan, rank=1), "density is nan"),
        (lambda: lora_jax.verify(MODEL, PARAMS, X, tolerance=1e9), "the tolerance is"),
        (lambda: lora_jax.verify(MODEL, PARAMS, X, tolerance=np.nan), "the tolerance is nan"),
        (lambda: lora_jax.lora_plus(np.inf), "the ratio is inf"),
        (lambda: sweep.broadcast(BASE, 0), "members is 0"),
        (lambda: sweep.fill(jnp.arange(3), 2), "there are 3 members, more than 2"),
        (lambda: sweep.first(jnp.arange(3), 5), "there are 3 members, and 5 are asked for"),
        (lambda: sweep.even([]), "no members"),
        (lambda: mesh.make(members=1.0), "no integer of at least 1"),
        # Adapters beside a base that they were not made for: what keeps its norms.
        (lambda: lora_jax.combine(DOUBLED, adapter_of(DORA_PARAMS)), "combine: kernel has other norms"),
        (lambda: lora_jax.merge({**DORA_PARAMS, **DOUBLED}), "merge: kernel has other norms"),
        (lambda: lora_jax.verify(DORA, {**DORA_PARAMS, **DOUBLED}, X), "verify: kernel has other norms"),
        (lambda: lora_jax.report({**DORA_PARAMS, **DOUBLED}), "report: kernel has other norms"),
        (lambda: lora_jax.swap(lora_jax.adapt(KEY, DOUBLED, DORA, X), adapter_of(DORA_PARAMS)), "swap: kernel has other norms"),
        (lambda: lora_jax.combine(quantised.quantise(BASE, LAYOUT), adapter_of(DORA_PARAMS)), "take them anew by lora_jax.rebase"),
    ],
    ids=range(43),
)  # fmt: skip
def test_what_passed_in_silence_is_refused(act, message):
    with pytest.raises(LoRAError, match=message):
        act()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_norms_of_a_base_in_half_precision_are_its_own(dtype):
    for cast in (
        lambda tree: jax.tree.map(lambda leaf: leaf.astype(dtype), tree),
        lambda tree: {**tree, "kernel": tree["kernel"].astype(dtype)},
    ):
        params = cast(DORA_PARAMS)
        lora_jax.merge(params)
        lora_jax.combine(lora_jax.strip(params), adapter_of(params))


def test_norms_are_looked_at_in_a_trace_too_where_they_are_known():
    jax.jit(lambda: lora_jax.merge(DORA_PARAMS))()
    with pytest.raises(LoRAError, match="other norms"):
        jax.jit(lambda: lora_jax.merge({**DORA_PARAMS, **DOUBLED}))()
    jax.jit(lora_jax.merge)({**DORA_PARAMS, **DOUBLED})  # traced: not known


@pytest.mark.parametrize("fields", [{}, {"init": "pissa"}, {"init": "olora"}], ids=str)
def test_an_update_is_the_same_on_any_base(fields):
    """What PiSSA and OLoRA keep of a base is a part of their update."""
    _, params = made(**fields)
    update = lora_jax.merge(params)["kernel"] - BASE["kernel"]
    other = lora_jax.merge(lora_jax.combine(DOUBLED, adapter_of(params)))["kernel"] - DOUBLED["kernel"]
    np.testing.assert_allclose(other, update, atol=1e-5)
