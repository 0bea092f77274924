"""Adapters as data: made, taken out, put in, switched off, reported; and the front door as the issue writes it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lora_jax
from lora_jax import LoRA, LoRAConfig, LoRAError, adapt, adapter_of, report, scaled, strip, swap
from lora_jax.models.mlp import MLP
from tests.cases import Encoder, TiedNet, assert_trees_close, case_named, dense_base, flat, randomised

pytestmark = pytest.mark.usefixtures("quick_compile")

X = jnp.ones((1, 5))
MODEL = LoRA(MLP(hidden=(4,), classes=3), LoRAConfig(rank=2))


@functools.cache
def base_params():
    return jax.jit(MODEL.base_module.init)(jax.random.key(0), X)["params"]


@functools.cache
def adapted():
    return adapt(jax.random.key(1), base_params(), MODEL, X)


def test_the_front_door(key):
    config = lora_jax.LoRAConfig(rank=8, alpha=16, targets=("query", "value"))
    model = lora_jax.LoRA(Encoder(), config)
    x = jax.random.normal(key, (2, 4))
    base = Encoder().init(key, x)["params"]
    params = lora_jax.adapt(key, base, model, x)
    mask = lora_jax.trainable_mask(params, train=("head",))
    frozen, trainable = lora_jax.partition(params, mask)
    params = lora_jax.combine(frozen, trainable)
    tx = lora_jax.lora_optimizer(optax.adamw(1e-3), mask)
    gradients = jax.grad(lambda p: jnp.sum(model.apply({"params": p}, x) ** 2))(params)
    updates, _ = tx.update(gradients, tx.init(params), params)
    params = randomised(optax.apply_updates(params, updates), seed=3)
    merged = lora_jax.merge(params)
    assert_trees_close(Encoder().apply({"params": merged}, x), model.apply({"params": params}, x))
    assert "layer_0/query" in str(lora_jax.report(params))


def test_adapt_uses_the_base_as_it_is():
    base = base_params()
    got = strip(adapted())
    jax.tree.map(np.testing.assert_array_equal, got, dict(base))
    shared = adapt(jax.random.key(1), base, MODEL, X)
    assert all(flat(shared)[path] is leaf for path, leaf in flat(base).items())


def test_another_key_is_another_adapter():
    one, other = (adapt(jax.random.key(seed), base_params(), MODEL, X) for seed in (1, 2))
    assert np.any(np.asarray(one["hidden_0"]["lora_a"]) != np.asarray(other["hidden_0"]["lora_a"]))
    assert np.any(np.asarray(one["hidden_0"]["lora_a"])[:4] != np.asarray(one["classifier"]["lora_a"]))


def drop(tree):
    return {"hidden_0": tree["hidden_0"]}


def add(tree):
    return {**tree, "extra": {"kernel": jnp.ones(2)}}


def transpose(tree):
    return jax.tree.map(lambda leaf: leaf.T, tree)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop, ["missing classifier/kernel", "missing classifier/bias"]),
        (add, ["unexpected extra/kernel"]),
        (transpose, ["mis-shaped classifier/kernel", "mis-shaped hidden_0/kernel", "float32[4,5]"]),
    ],
)
def test_adapt_lists_every_difference_of_another_base(spoil, words):
    with pytest.raises(LoRAError) as caught:
        adapt(jax.random.key(1), spoil(base_params()), MODEL, X)
    assert all(word in str(caught.value) for word in words)


def test_swapping_puts_another_adapter_on_the_same_base():
    params = adapted()
    other = randomised(params, seed=4)
    got = swap(params, adapter_of(other))
    jax.tree.map(np.testing.assert_array_equal, got, other)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop, ["missing classifier/lora_a", "missing classifier/lora_b", "missing classifier/lora_scale"]),
        (add, ["unexpected extra/kernel"]),
        (transpose, ["mis-shaped classifier/lora_a", "mis-shaped hidden_0/lora_b"]),
    ],
)
def test_swap_is_all_or_nothing(spoil, words):
    params = adapted()
    before = jax.tree.map(np.array, params)
    with pytest.raises(LoRAError) as caught:
        swap(params, spoil(adapter_of(params)))
    assert all(word in str(caught.value) for word in words)
    jax.tree.map(np.testing.assert_array_equal, params, before)


def test_scaling_multiplies_the_update():
    case = case_named("attention")
    params = case.params()
    merged, base = dense_base(params), strip(params)
    expected = jax.tree.map(lambda w, w0: w0 + 3 * (w - w0), merged, dict(base))
    assert_trees_close(dense_base(scaled(params, 3.0)), expected)


def test_scaling_spares_a_parameter_of_a_similar_name():
    leaf = {"lora_a": jnp.ones((2, 1)), "lora_b": jnp.ones((1, 2)), "lora_scale": jnp.ones(()), "my_lora_scale": 5.0}
    assert scaled(leaf, 0)["my_lora_scale"] == 5.0


@pytest.mark.parametrize("call", [adapter_of, lambda p: scaled(p, 0.0), lambda p: swap(p, p)])
def test_a_tree_without_an_adapter_says_so(call):
    with pytest.raises(LoRAError, match="hold no adapter"):
        call(base_params())


def test_report_counts():
    params = adapted()
    mask = lora_jax.trainable_mask(params, train="classifier")
    got = report(params, mask)
    assert (got.base, got.adapter) == (5 * 4 + 4 + 4 * 3 + 3, 2 * (5 + 4) + 2 * (4 + 3))
    assert got.trainable == got.adapter + 4 * 3 + 3
    assert got.share == pytest.approx(32 / (32 + 39))
    assert got.ratio == pytest.approx(32 / 39)
    assert got.trainable_share == pytest.approx(47 / 71)
    assert {row.path: (row.kernel, row.a, row.b, row.count) for row in got.rows} == {
        "hidden_0": ((5, 4), (5, 2), (2, 4), 18),
        "classifier": ((4, 3), (4, 2), (2, 3), 14),
    }
    assert "lora_b nonzero 0/2" in str(got)
    assert "trainable 47" in str(got)


def test_report_counts_updates_that_are_not_zero():
    tied = LoRA(TiedNet(jnp.float32), LoRAConfig(rank=2, targets="*"))
    params = jax.jit(tied.init)(jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    assert report(params).b_nonzero == 0  # the embedding starts with zeros in a, not in b
    assert report(randomised(params, seed=3)).b_nonzero == 3


def test_report_of_an_adapter_without_its_base_says_so():
    with pytest.raises(LoRAError, match="no kernel beside it"):
        report(adapter_of(adapted()))


class Dropping(nn.Module):
    rate: float = 0.5

    @nn.compact
    def __call__(self, x, *, train: bool = True):
        x = nn.tanh(nn.Dense(6, name="first")(x))
        x = nn.Dropout(self.rate, deterministic=not train)(x)
        return nn.Dense(3, name="second")(x)


def dropping(rate: float, own: float = 0.5):
    model = LoRA(Dropping(own), LoRAConfig(rank=2, dropout=rate))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)), jnp.float32)
    return model, randomised(jax.jit(model.init)(jax.random.key(0), x)["params"], seed=3), x


def test_adapter_dropout_is_active_only_with_an_rng_and_follows_its_key():
    model, params, x = dropping(0.5, own=0.0)

    def run(rngs):
        return np.asarray(model.apply({"params": params}, x, rngs=rngs))

    without, one, again, other = run(None), run(_rng(1)), run(_rng(1)), run(_rng(2))
    assert_trees_close(without, Dropping().apply({"params": dense_base(params)}, x, train=False))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - without).max() > 1e-2
    assert np.abs(one - other).max() > 1e-2


class Switched(nn.Module):
    """The mode as a field."""

    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x, deterministic: bool | None = None):
        return nn.Dense(3)(x)


@pytest.mark.parametrize(
    ("base", "args", "kwargs", "is_active"),
    [
        (Dropping(0.0), (), {"train": True}, True),
        (Dropping(0.0), (), {"train": False}, False),
        (Switched(), (), {}, True),
        (Switched(), (), {"deterministic": True}, False),
        (Switched(), (True,), {}, False),
        (Switched(True), (), {}, False),
        (Switched(True), (False,), {}, True),
        (Switched(), (), {"method": lambda module, x, training=False: module(x)}, False),
    ],
)
def test_adapter_dropout_follows_the_model_s_mode(base, args, kwargs, is_active):
    model, x = LoRA(base, LoRAConfig(rank=2, dropout=0.5)), jnp.ones((4, 5))
    params = randomised(jax.jit(model.init)(jax.random.key(0), x)["params"], seed=3)
    got, without = (model.apply({"params": params}, x, *args, rngs=rngs, **kwargs) for rngs in (_rng(1), None))
    assert (np.abs(got - without).max() > 1e-2) == is_active


def _rng(seed):
    return {"dropout": jax.random.key(seed)}


def test_dropout_zero_ignores_the_rng():
    model, params, x = dropping(0.0, own=0.0)
    run = jax.jit(lambda rngs: model.apply({"params": params}, x, rngs=rngs))
    np.testing.assert_array_equal(run(_rng(1)), run({}))


def test_adapter_dropout_leaves_the_dropout_of_the_base_as_it_was():
    model, params, x = dropping(0.5)
    got = model.apply({"params": scaled(params, 0.0)}, x, rngs=_rng(1))
    np.testing.assert_array_equal(got, Dropping().apply({"params": strip(params)}, x, rngs=_rng(1)))


def test_the_mean_over_dropout_is_the_output_without():
    model = LoRA(nn.Dense(3), LoRAConfig(rank=2, dropout=0.3, targets="*"))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)), jnp.float32)
    params = randomised(model.init(jax.random.key(0), x)["params"], seed=3)
    keys = jax.random.split(jax.random.key(1), 4000)
    draws = jax.vmap(lambda key: model.apply({"params": params}, x, rngs={"dropout": key}))(keys)
    error = np.asarray(draws.std(axis=0)) / np.sqrt(len(keys))
    assert np.all(np.abs(np.asarray(draws.mean(axis=0) - model.apply({"params": params}, x))) < 5 * error)
    assert error.min() > 1e-4


class Scanned(nn.Module):
    split: bool

    @nn.compact
    def __call__(self, x):
        rngs = {"params": True, "dropout": True} if self.split else {"params": True}
        stack = nn.scan(Layer, variable_axes={"params": 0}, split_rngs=rngs, length=3)
        return stack(name="layers")(x, None)[0]


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.Dense(x.shape[-1], name="dense")(x), None


@pytest.mark.parametrize("split", [True, False])
def test_dropout_under_scan_needs_nothing_of_the_model(split):
    """Whether or not the scan hands on a "dropout" stream: the adapters' keys are split by the engine."""
    model, x = LoRA(Scanned(split), LoRAConfig(rank=2, dropout=0.5)), jnp.ones((2, 4))
    params = randomised(jax.jit(model.init)(jax.random.key(0), x)["params"], seed=3)
    got = model.apply({"params": params}, x, rngs=_rng(1)) - model.apply({"params": params}, x)
    assert np.abs(got).max() > 1e-2
