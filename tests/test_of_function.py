"""`LoRA` of a function: what takes a wrapped Flax model takes it too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lora_jax
from lora_jax import LoRA, LoRAConfig, LoRAError, verify
from lora_jax.of_function import FunctionLoRA
from tests.cases import assert_trees_close, randomised

pytestmark = pytest.mark.usefixtures("quick_compile")
X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
BASE = {"first": {"w": jnp.ones((3, 4)) / 3}, "second": [jnp.arange(8.0).reshape(4, 2) / 8, jnp.zeros(2)]}
CONFIG = LoRAConfig(rank=2, alpha=3, targets="*")


def fn(params, x, train=False):
    w, b = params["second"]
    return jnp.tanh(x @ params["first"]["w"]) @ w + b[None]


MODEL = LoRA(fn, CONFIG, like=BASE)
PARAMS = {**MODEL.init(jax.random.key(0), BASE, X)["params"]}


def test_it_is_a_wrapper_of_its_own():
    assert isinstance(MODEL, FunctionLoRA) and MODEL.config is CONFIG
    assert sorted(PARAMS["first"]) == ["w", "w:io"] and sorted(PARAMS["second"]) == ["0", "0:io", "1"]
    assert_trees_close(lora_jax.adapt(jax.random.key(0), BASE, MODEL, X), PARAMS)


def test_apply_is_the_merged_function():
    params = randomised(PARAMS, seed=3)
    assert_trees_close(MODEL.apply({"params": PARAMS}, X), fn(BASE, X), 1e-6)
    merged = lora_jax.merge(params)
    second = [merged["second"]["0"], merged["second"]["1"]]
    expected = fn({"first": merged["first"], "second": second}, X)
    assert_trees_close(MODEL.apply({"params": params}, X), expected)
    assert np.abs(expected - fn(BASE, X)).max() > 1e-2


def test_it_is_verified_laid_out_and_reported():
    assert verify(MODEL, PARAMS, X).holds
    layout = lora_jax.layout(MODEL, BASE, X)
    assert {place: site.roles for place, site in layout.items()} == {"first/w:io": "io", "second/0:io": "io"}
    assert lora_jax.report(PARAMS, config=CONFIG, layout=layout).missed == ()


def test_dropout_follows_the_function_s_own_mode():
    model, params = LoRA(fn, LoRAConfig(rank=2, targets="*", dropout=0.5), like=BASE), randomised(PARAMS, seed=3)
    rngs, without = {"dropout": jax.random.key(1)}, model.apply({"params": params}, X)
    np.testing.assert_array_equal(model.apply({"params": params}, X, rngs=rngs), without)
    assert np.abs(model.apply({"params": params}, X, train=True, rngs=rngs) - without).max() > 1e-2


def test_its_adapters_train_alone():
    mask = lora_jax.trainable_mask(PARAMS)
    frozen, trainable = lora_jax.partition(PARAMS, mask)
    loss = lambda params, batch, key: (jnp.mean((MODEL.apply({"params": params}, batch["x"]) - 1) ** 2), {})  # noqa: E731
    state = lora_jax.training.init_state(
        trainable, tx := lora_jax.lora_optimizer(optax.adam(0.05), mask), jax.random.key(0)
    )
    epoch = lora_jax.training.make_epoch(loss, tx)
    state, (losses, _) = epoch(state, frozen, {"x": X}, jnp.tile(jnp.arange(5)[None], (8, 1)))
    assert losses[-1] < losses[0]


def test_a_model_that_is_its_own_parameters_says_what_to_write():
    class Layer:
        def __init__(self, w):
            self.w = w

        def __call__(self, x):
            return x @ self.w

    jax.tree_util.register_dataclass(Layer, ["w"], [])
    with pytest.raises(LoRAError, match="this Layer holds its own arrays; pass a function of them"):
        LoRA(Layer(jnp.ones((3, 4))), CONFIG)
    layer = Layer(jnp.ones((3, 4)))
    model = LoRA(lambda layer, x: layer(x), CONFIG, like=layer)
    params = randomised(model.init(jax.random.key(0), layer, X)["params"], seed=3)
    assert_trees_close(model.apply({"params": params}, X), X @ lora_jax.merge(params)["w"])


def test_what_is_no_model_says_so():
    with pytest.raises(LoRAError, match="LoRA wraps a flax.linen module or a function"):
        LoRA(3, CONFIG).init(jax.random.key(0), X)
