"""What a review with fresh eyes found, each as it should be."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lora_jax
import lora_jax.nnx
from lora_jax import LoRA, LoRAConfig, LoRAError, eva, sweep, verify
from lora_jax.products import find
from lora_jax.tree import flat
from tests.cases import assert_trees_close, randomised

pytestmark = [pytest.mark.usefixtures("quick_compile"), pytest.mark.filterwarnings("ignore::UserWarning")]
KEY, CONFIG = jax.random.key(0), LoRAConfig(rank=2, targets="*")


def normal(*shape, seed=1):
    return jax.random.normal(jax.random.key(seed), shape)


X = normal(6, 4)


def adapted(fn, base, x, config=CONFIG):
    model = LoRA(fn, config)
    return model, randomised(lora_jax.adapt(KEY, base, model, x), seed=3)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32, jnp.bool_])
@pytest.mark.parametrize(
    "fn", [lambda p, x: x @ p["w"], lambda p, x: jnp.einsum("bd,dk->kb", x, p["w"])], ids=["@", "einsum"]
)
def test_inputs_that_are_no_floats(fn, dtype):
    x = jnp.asarray(np.random.default_rng(0).integers(0, 2, (6, 4)), dtype)
    model, params = adapted(fn, {"w": normal(4, 5)}, x)
    assert_trees_close(model.apply({"params": params}, x), fn(lora_jax.merge(params), x))
    assert np.abs(model.apply({"params": params}, x) - fn({"w": params["w"]}, x)).max() > 1e-2


@jax.custom_vjp
def masked(w, x):
    y = jnp.where(jnp.arange(5)[None] < 3, x @ w, -jnp.inf)
    return y, y > 0


masked.defvjp(lambda w, x: (masked(w, x), (w, x)), lambda kept, g: (kept[1].T @ g[0], g[0] @ kept[0].T))


def test_infinities_and_masks_out_of_a_function_with_a_derivative_of_its_own():
    fn = lambda p, x: (nn.softmax(masked(p["w"], x)[0]), masked(p["w"], x)[1])  # noqa: E731
    with pytest.warns(lora_jax.errors.CustomDerivativeWarning):
        model, params = adapted(fn, {"w": normal(4, 5)}, X)
    assert_trees_close(model.apply({"params": params}, X), fn(lora_jax.merge(params), X))


@pytest.mark.parametrize("wrap", [lambda block: block, jax.jit, jax.checkpoint], ids=["plain", "jit", "remat"])
def test_a_residual_stream_has_no_output_layer(wrap):
    block = wrap(lambda w, x: x + x @ w)
    base = {f"w{k}": normal(4, 4) for k in range(3)}

    def fn(p, x):
        for w in p.values():
            x = block(w, x)
        return x

    assert not any(site.is_output for site in find(fn, base, X).values())
    sites = find(lambda p, x: fn(p["body"], x) @ p["head"], {"body": base, "head": normal(4, 2)}, X)
    assert [path for path, site in sites.items() if site.is_output] == ["head"]


def test_keys_that_are_handed_out_are_no_output_layer():
    def fn(p, x):
        q, k = x @ p["q"], x @ p["k"]
        return nn.softmax(q @ k.T) @ x @ p["out"], {"keys": k}

    sites = find(fn, {name: normal(4, 4) for name in ("q", "k", "out")}, X)
    assert [path for path, site in sites.items() if site.is_output] == ["out"]


class Turn(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.Dense(4, name="dense")(x), None


class AlongAxisOne(nn.Module):
    @nn.compact
    def __call__(self, x):
        turns = nn.scan(Turn, variable_axes={"params": 1}, split_rngs={"params": True}, length=3)
        return nn.Dense(3, name="head")(turns(name="turns")(x, None)[0])


def test_the_biases_of_adapted_layers_wherever_their_adapter_lies():
    params = LoRA(AlongAxisOne(), CONFIG).init(KEY, X)["params"]
    mask = lora_jax.trainable_mask(params, bias="lora_only")
    assert {path for path, trains in flat(mask).items() if trains and path.endswith("bias")} == {
        "head/bias",
        "turns/dense/bias",
    }


@pytest.mark.parametrize("pattern", ["layers_0", "layers_0/kernel"])
def test_padding_by_a_pattern_of_a_leaf(pattern):
    model = LoRA(nn.Sequential([nn.Dense(4)]), LoRAConfig(rank=2, rank_pattern={pattern: 4}))
    members = sweep.grid(ranks=(2,), learning_rates=(1e-2,), seeds=(0,))
    stacked = sweep.init_adapters(model, members, X)
    assert not flat(sweep.is_padding(model, stacked, members))["layers_0/lora_a"].any()


@pytest.mark.parametrize("roles", [{}, {"a/w": "soo"}])
def test_a_config_out_of_a_peft_folder_makes_the_same_adapter(roles, tmp_path):
    base = {"a": {"w": normal(3, 4, 5)}}
    fn = lambda p, x: jnp.einsum("bd,edk->bek", x, p["a"]["w"])  # noqa: E731
    roles = {"a/w": "sio"} if roles else {}
    model, params = adapted(fn, base, X, LoRAConfig(rank=2, alpha=3, targets="*", roles=roles))
    layout = lora_jax.layout(model, base, X)
    names = lambda path: "a.{}.w" if roles else "a.w"  # noqa: E731
    lora_jax.peft.save(tmp_path / "peft", params, model.config, layout, mask=None, names_of=names)
    found = lora_jax.peft.load(tmp_path / "peft", base, layout, names_of=names)
    assert_trees_close(found.params, params)
    assert found.config.targets == ("a/w",) and dict(found.config.roles) == roles
    again = lora_jax.adapt(KEY, base, LoRA(fn, found.config), X)
    assert jax.tree.map(jnp.shape, again) == jax.tree.map(jnp.shape, params)


class HoldsOne(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(LoRA(nn.Dense(4), CONFIG)(x))


def test_a_model_that_holds_a_lora_is_not_adapted_once_more():
    base = HoldsOne().init(KEY, X)["params"]
    with pytest.raises(
        LoRAError, match="the base holds an adapter at .*lora_a: it is adapted already, or the model has a LoRA inside"
    ):
        lora_jax.adapt(KEY, base, LoRA(HoldsOne(), CONFIG), X)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"scale": 3.0}, "scale is float"),
        ({"none": None}, "has None at none"),
        ({"empty": {}}, "empty is empty"),
        ({1: X}, "key 1"),
    ],
)
def test_trees_that_a_function_would_not_get_back(more, message):
    fn = lambda p, x: x @ p["w"] * p.get("scale", 1.0)  # noqa: E731
    base = {"w": normal(4, 6), **more}
    with pytest.raises(LoRAError, match=message):
        lora_jax.adapt(KEY, base, LoRA(fn, CONFIG), X)
    if 1 not in more:
        model = LoRA(fn, CONFIG, like=base)
        params = lora_jax.adapt(KEY, base, model, X)
        assert_trees_close(model.apply({"params": params}, X), fn(base, X), 1e-6)


def test_what_has_no_rule_stops_no_other_leaf():
    fn = lambda p, x: x @ p["v"] + jnp.linalg.solve(p["m"], x.T).T  # noqa: E731
    base = {"v": normal(4, 4), "m": normal(4, 4) + 4 * jnp.eye(4)}
    model, params = adapted(fn, base, X, LoRAConfig(rank=2, targets="v"))
    assert_trees_close(model.apply({"params": params}, X), fn(lora_jax.merge(params), X))
    assert not find(fn, base, X)["m"].is_adaptable


@pytest.mark.parametrize(
    "joined",
    [
        lambda w: jnp.concatenate([jnp.broadcast_to(w[None], (3, 4, 5)), jnp.ones((2, 4, 5))]),
        lambda w: jnp.concatenate([jnp.broadcast_to(w[None], (3, 4, 5)), jnp.ones((2, 4, 5))])[1:4],
        lambda w: jnp.pad(jnp.broadcast_to(w[None], (3, 4, 5)), ((1, 1), (0, 0), (0, 0))),
    ],
    ids=["concatenated", "sliced", "padded"],
)
def test_a_kernel_that_is_broadcast_and_joined(joined):
    fn = lambda p, x: jnp.einsum("bd,ndk->nbk", x, joined(p["w"]))  # noqa: E731
    model, params = adapted(fn, {"w": normal(4, 5)}, X)
    assert_trees_close(model.apply({"params": params}, X), fn(lora_jax.merge(params), X))


def test_eva_takes_roles():
    fn = lambda p, x: jnp.einsum("bd,edf->ebf", x, p["up"])  # noqa: E731
    model = LoRA(fn, LoRAConfig(rank=2, roles={"up": "sio"}))
    _, params = eva.adapt_to(KEY, {"up": normal(3, 4, 5)}, model, [(X,)], rho=1)
    assert params["up:sio"]["lora_a"].shape == (3, 4, 2)


def test_verify_over_a_quantised_base_and_with_statistics():
    x = normal(3, 64)
    model = LoRA(nn.Dense(64), CONFIG)
    base = nn.Dense(64).init(KEY, x)["params"]
    small = lora_jax.quantised.quantise(base, lora_jax.layout(nn.Dense(64), x))
    assert verify(model, lora_jax.adapt(KEY, small, model, x), x).holds
    normed = LoRA(nn.Sequential([nn.Dense(4), nn.BatchNorm(use_running_average=True)]), CONFIG)
    variables = normed.init(KEY, X)
    assert verify(normed, variables["params"], X, collections={"batch_stats": variables["batch_stats"]}).holds


def test_switches_and_sizes_of_numpy_s():
    def fn(p, x, train=False, n=1):
        y = x @ p["w"]
        return (y * 2 if train else y)[: int(n)]

    model, params = adapted(fn, {"w": normal(4, 5)}, X, LoRAConfig(rank=2, targets="w"))
    got = model.apply({"params": params}, X, train=np.bool_(True), n=np.int64(2))
    assert got.shape == (2, 5)
    assert_trees_close(got, 2 * (X @ lora_jax.merge(params)["w"])[:2])


def test_a_function_of_a_quantised_tree():
    x = normal(3, 64)
    fn = lambda p, x: x @ p["w"]  # noqa: E731
    base = {"w": normal(64, 64)}
    small = lora_jax.quantised.quantise(base, lora_jax.layout(fn, base, x))
    model, params = adapted(fn, small, x)
    assert_trees_close(model.apply({"params": params}, x), fn(lora_jax.merge(params), x), 1e-4)


class HandsOut(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(4, 4, rngs=rngs)

    def get(self):
        return self.layer

    def both(self, x):
        return self.layer, self.layer(x)

    def rows(self, x):
        yield self.layer(x)

    def __call__(self, x):
        return self.layer(x)


def test_a_module_that_an_injected_model_hands_out_is_its_own():
    model = lora_jax.nnx.LoRA(HandsOut(nnx.Rngs(0)), CONFIG)
    injected = model.inject(randomised(model.init(KEY, X)["params"], seed=3))
    assert injected.get() is injected.layer
    np.testing.assert_array_equal(injected.get()(X), injected.layer(X))
    assert_trees_close(injected(X), injected.layer(X), 1e-6)
    with pytest.raises(LoRAError, match="both gives a .*Linear beside arrays"):
        injected.both(X)
    with pytest.raises(LoRAError, match="rows gives a generator"):
        injected.rows(X)


def test_a_report_without_a_layout_counts_output_layers():
    config = dataclasses.replace(CONFIG, targets="output-layers")
    params = LoRA(nn.Dense(3), config).init(KEY, X)["params"]
    assert lora_jax.report(params, config=config).matches == {"output-layers": 1}
