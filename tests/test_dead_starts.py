"""Factors that are both zero never move: does every start leave each direction a way to train, or say why it cannot?"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lora_jax
from lora_jax import LoRA, LoRAConfig, LoRAError, algebra, eva, initializers, quantised, starts, sweep
from lora_jax.lowrank import delta

pytestmark = pytest.mark.usefixtures("quick_compile")
KEY, X = jax.random.key(0), jax.random.normal(jax.random.key(1), (16, 6))
LAYER = nn.Dense(5, use_bias=False)
RANDOM = np.random.default_rng(0)
KERNELS = {
    "zero": jnp.zeros((6, 5)),
    "one direction": jnp.asarray(RANDOM.normal(size=(6, 1)) @ RANDOM.normal(size=(1, 5)), jnp.float32),
    "full": jnp.asarray(RANDOM.normal(size=(6, 5)), jnp.float32),
}


def trained(model, params):
    """Its adapter after three steps."""
    target = jnp.asarray(RANDOM.normal(size=(16, 5)), jnp.float32)

    def loss(trainable, frozen):
        return jnp.mean((model.apply({"params": lora_jax.combine(frozen, trainable)}, X) - target) ** 2)

    frozen, trainable = lora_jax.partition(params, lora_jax.trainable_mask(params))
    tx = optax.sgd(0.1)
    state = tx.init(trainable)
    for _ in range(3):
        updates, state = tx.update(jax.grad(loss)(trainable, frozen), state)
        trainable = optax.apply_updates(trainable, updates)
    return trainable


@pytest.mark.parametrize("init", ["pissa", "olora", "lora", "orthogonal"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dora", [False, True])
def test_b11_every_direction_of_a_start_trains(init, kernel, dora):
    model, base = LoRA(LAYER, LoRAConfig(rank=4, init=init, dora=dora)), {"kernel": KERNELS[kernel]}
    params = lora_jax.adapt(KEY, base, model, X)
    np.testing.assert_allclose(model.apply({"params": params}, X), LAYER.apply({"params": base}, X), atol=1e-5)
    after = trained(model, params)
    moved = {
        name: np.abs(np.asarray(after[name] - params[name])).max(axis=axis)
        for name, axis in (("lora_a", 0), ("lora_b", 1))
    }
    assert np.all(np.maximum(*moved.values()) > 1e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_b11_pissa_is_still_the_best_approximation(kernel):
    a, b = starts.pissa(KERNELS[kernel], 3, jnp.asarray(2.0))
    u, s, v = np.linalg.svd(np.asarray(KERNELS[kernel], np.float64))
    np.testing.assert_allclose(2 * a @ b, (u[:, :3] * s[:3]) @ v[:3], atol=1e-5)
    assert np.all(np.any(np.asarray(a) != 0, axis=0) | np.any(np.asarray(b) != 0, axis=1))


def test_b11_members_of_a_sweep_begin_so_too():
    model = LoRA(LAYER, LoRAConfig(rank=1, init="pissa"))
    members = sweep.grid(ranks=(2, 4), learning_rates=(0.1,), seeds=(0,))
    stacked = sweep.init_adapters(model, members, X, base_params={"kernel": KERNELS["zero"]})
    assert np.any(np.asarray(stacked["lora_a"]) != 0, axis=-2).sum(-1).tolist() == [2, 4]


def test_b11_what_is_compressed_beyond_its_rank_trains_on():
    one = {"lora_a": jnp.ones((6, 1)), "lora_b": jnp.ones((1, 5)), "lora_scale": jnp.asarray(2.0)}
    zero = {**one, "lora_b": jnp.zeros((1, 5))}
    wide = algebra.combine([one, one, one], [1, 1, -1])
    for update, found in (
        (2.0, algebra.recompress(wide, 3)),
        (0.0, algebra.recompress(algebra.combine([zero, zero], [1, 1]), 2)),
        (2.0, algebra.ties([one, one], [1, 1], density=1, rank=3)),
        (2.0, algebra.dare(KEY, [one], [1], density=1, rank=3)),
    ):
        np.testing.assert_allclose(delta(*found.values()), np.full((6, 5), update), atol=1e-5)
        a, b = np.asarray(found["lora_a"]), np.asarray(found["lora_b"])
        assert np.all(np.any(a != 0, axis=0) | np.any(b != 0, axis=1)) and np.all(np.abs(a).max(axis=0) > 1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("fields", [{"init": "pissa"}, {"init": "olora"}, {"dora": True}], ids=str)
def test_b11_a_base_that_is_not_finite_is_no_start(fields, bad):
    base, model = {"kernel": KERNELS["full"].at[1, 2].set(bad)}, LoRA(LAYER, LoRAConfig(rank=2, **fields))
    with pytest.raises(LoRAError, match="kernel has entries that are infinite or NaN"):
        lora_jax.adapt(KEY, base, model, X)
    with pytest.raises(LoRAError, match="kernel has entries that are infinite or NaN"):
        members = sweep.grid(ranks=(1, 2), learning_rates=(0.1,), seeds=(0,))
        sweep.init_adapters(model, members, X, base_params=base)
    with pytest.raises(LoRAError, match="infinite or NaN"):
        quantised.quantise(base, lora_jax.layout(LAYER, X))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (jnp.ones((16, 6)), "vary along 0 directions on these batches, and the config's ranks ask for 2"),
        (1e4 + 0 * X, "vary along 0 directions"),
        (X[:2], "vary along 1 directions"),
        (X[:, :1] * jnp.ones((1, 6)) + 3, "vary along 1 directions"),
        (X.at[0, 0].set(jnp.nan), "have infinities or NaN"),
        (X.at[0, 0].set(jnp.inf), "have infinities or NaN"),
    ],
    ids=range(6),
)
def test_b11_data_that_gives_no_start_is_refused(data, message):
    model = LoRA(LAYER, LoRAConfig(rank=2))
    with pytest.raises(LoRAError, match=message):
        eva.adapt_to(KEY, {"kernel": KERNELS["full"]}, model, [(data,)])
    eva.adapt_to(KEY, {"kernel": KERNELS["full"]}, model, [(X,)])


@pytest.mark.parametrize("draw", [initializers.Normal, initializers.Orthogonal])
@pytest.mark.parametrize("size", [0, -1.0, float("nan"), float("inf"), True])
def test_b11_a_draw_of_size_zero_is_refused(draw, size):
    with pytest.raises(LoRAError, match="must be a positive number"):
        draw(size)


def test_b11_a_rank_that_the_kernel_has_no_room_for_is_named():
    config = dataclasses.replace(LoRAConfig(rank=6), init="pissa")
    with pytest.raises(LoRAError, match="no more than 5 directions"):
        lora_jax.adapt(KEY, {"kernel": KERNELS["full"]}, LoRA(LAYER, config), X)
