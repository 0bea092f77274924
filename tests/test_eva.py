"""EVA: components and ranks by numpy's SVD of the inputs that a layer gets, and PEFT's budget."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import LoRA, LoRAConfig, LoRAError, eva
from tests.cases import TiedNet, assert_trees_close, flat

pytestmark = pytest.mark.usefixtures("quick_compile")


class Net(nn.Module):
    """`first` sees inputs that vary along two directions, `second` along many; `attend` is a DenseGeneral."""

    @nn.compact
    def __call__(self, x):
        y = nn.tanh(nn.Dense(8, name="first")(x))
        y = nn.DenseGeneral((2, 3), name="attend")(y + jnp.sin(7 * y))
        return nn.DenseGeneral(4, axis=(-2, -1), name="second")(nn.relu(y))


RANDOM = np.random.default_rng(0)
MIXING = RANDOM.normal(size=(2, 6))
BATCHES = [(jnp.asarray(RANDOM.normal(size=(40, 2)) @ MIXING + 2, jnp.float32),) for _ in range(3)]


def captured(base, name: str) -> np.ndarray:
    """The inputs of a layer over all batches, [N, D]."""
    rows = []

    def note(next_fun, args, kwargs, context):
        if context.module.name == name and context.method_name == "__call__":
            rows.append(np.asarray(args[0], np.float64).reshape(40, -1))
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(note):
        for args in BATCHES:
            Net().apply({"params": base}, *args)
    return np.concatenate(rows)


def adapted(rho=2.0, **fields):
    base = Net().init(jax.random.key(0), *BATCHES[0])["params"]
    model = LoRA(Net(), LoRAConfig(**{"rank": 2, "alpha": 3, **fields}))
    return base, *eva.adapt_to(jax.random.key(1), base, model, BATCHES, rho=rho)


def test_a_spans_the_principal_components_of_the_inputs_and_b_is_zero():
    base, model, params = adapted(rho=1)
    for name in ("first", "attend", "second"):
        inputs = captured(base, name)
        components = np.linalg.svd(inputs - inputs.mean(0))[2][:2]
        a = np.asarray(params[name]["lora_a"], np.float64)
        np.testing.assert_allclose(np.abs(np.diag(components @ a)), 1, atol=1e-3)  # each alone, whatever its sign
        np.testing.assert_allclose(a.T @ a, np.eye(2), atol=1e-5)
        assert not np.any(params[name]["lora_b"])
    assert_trees_close(model.apply({"params": params}, *BATCHES[0]), Net().apply({"params": base}, *BATCHES[0]), 1e-6)


class Twice(nn.Module):
    """One layer that is called on inputs around two means."""

    @nn.compact
    def __call__(self, x, y):
        layer = nn.Dense(4, name="out")
        return layer(x) + layer(y)


def test_inputs_far_from_zero_have_the_same_components():
    far = [1000 + 0.5 * i + RANDOM.normal(size=(40, 6)) * (1, 2, 3, 4, 5, 6) for i in range(4)]
    batches = [tuple(jnp.asarray(x, jnp.float32) for x in pair) for pair in (far[:2], far[2:])]
    base = Twice().init(jax.random.key(0), *batches[0])["params"]
    _, params = eva.adapt_to(jax.random.key(1), base, LoRA(Twice(), LoRAConfig(rank=6)), batches, rho=1)
    inputs = np.concatenate(batches, axis=None).reshape(-1, 6).astype(np.float64)
    components = np.linalg.svd(inputs - inputs.mean(0))[2]
    np.testing.assert_allclose(np.abs(np.diag(components @ params["out"]["lora_a"])), 1, atol=1e-4)


def test_the_budget_goes_to_the_components_that_explain_most():
    base, model, params = adapted(rho=2, rank=3)
    offers = []
    for name in ("first", "attend", "second"):
        inputs = captured(base, name)
        variance = np.linalg.svd(inputs - inputs.mean(0))[1] ** 2
        offers += [(share, name) for share in (variance / variance.sum())[:6]]
    chosen = [name for _, name in sorted(offers, reverse=True)[:9]]  # three layers of rank 3
    ranks = {
        name: leaf.shape[-1]
        for path, leaf in flat(params).items()
        if path.endswith("lora_a")
        for name in [path.split("/")[0]]
    }
    assert ranks == {name: chosen.count(name) for name in set(chosen)}
    assert dict(model.config.rank_pattern) == {name: rank for name, rank in ranks.items() if rank != 3}
    assert len(set(ranks.values())) > 1
    scales = {float(leaf) for path, leaf in flat(params).items() if path.endswith("lora_scale")}
    assert scales == {1.0}  # of the config's rank


def test_layers_of_a_stack_have_ranks_of_their_own():
    module, ids = TiedNet(jnp.float32), jnp.asarray(RANDOM.integers(7, size=(20, 5)), jnp.int32)
    base = module.init(jax.random.key(0), ids)["params"]
    model, params = eva.adapt_to(jax.random.key(1), base, LoRA(module, LoRAConfig(rank=2)), [(ids,)], rho=2)
    widths = {}
    for path in ("blocks/up/lora_a", "blocks/down/lora_a"):
        nonzero = np.any(np.asarray(flat(params)[path]) != 0, axis=-2)
        widths[path] = nonzero.sum(-1)
        assert np.all(nonzero == (np.arange(nonzero.shape[-1]) < nonzero.sum(-1)[:, None]))
    assert sum(width.sum() for width in widths.values()) == 2 * 3 * 2
    assert_trees_close(model.apply({"params": params}, ids), module.apply({"params": base}, ids), 1e-6)


def test_other_layers_keep_their_random_factors():
    class WithEmbed(nn.Module):
        @nn.compact
        def __call__(self, ids):
            return nn.Dense(3, name="out")(nn.Embed(7, 4, name="embed")(ids))

    ids = jnp.arange(14).reshape(7, 2) % 7
    base = WithEmbed().init(jax.random.key(0), ids)["params"]
    model = LoRA(WithEmbed(), LoRAConfig(rank=2, targets="*"))
    _, params = eva.adapt_to(jax.random.key(1), base, model, [(ids,)])
    assert params["embed"]["lora_b"].shape == (2, 4)
    assert np.all(params["embed"]["lora_b"])


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: adapted(rho=0.5), "rho is 0.5"),
        (lambda: adapted(init="pissa"), "'pissa', it must be 'lora'"),
        (lambda: eva.adapt_to(jax.random.key(0), {}, LoRA(Net(), LoRAConfig(rank=1)), []), "at least one batch"),
        (lambda: eva.adapt_to(jax.random.key(0), {}, Net(), BATCHES), "wraps, and this is Net of"),
    ],
)
def test_what_cannot_be_says_so(act, message):
    with pytest.raises(LoRAError, match=message):
        act()


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="out")(nn.BatchNorm(use_running_average=True)(x))


def test_what_else_the_model_reads_is_passed_on():
    x = BATCHES[0][0]
    variables = Normed().init(jax.random.key(0), x)
    statistics = {"BatchNorm_0": {"mean": jnp.arange(6.0), "var": jnp.arange(1.0, 7.0)}}
    _, params = eva.adapt_to(
        jax.random.key(1),
        variables["params"],
        LoRA(Normed(), LoRAConfig(rank=2)),
        [(x,)],
        collections={"batch_stats": statistics},
        rho=1,
    )
    inputs = (np.asarray(x) - np.arange(6.0)) / np.sqrt(np.arange(1.0, 7.0) + 1e-5)
    components = np.linalg.svd(inputs - inputs.mean(0))[2][:2]
    np.testing.assert_allclose(np.abs(np.diag(components @ np.asarray(params["out"]["lora_a"]))), 1, atol=1e-3)


class Turn(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.Dense(6, name="dense")(x), None


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        turns = nn.scan(Turn, variable_broadcast="params", split_rngs={"params": False}, length=3)
        return turns(name="turns")(x, None)[0]


def test_layers_that_a_scan_runs_again_have_the_inputs_of_all_rounds():
    (x,) = BATCHES[0]
    base = Recurrent().init(jax.random.key(0), x)["params"]
    _, params = eva.adapt_to(jax.random.key(1), base, LoRA(Recurrent(), LoRAConfig(rank=2)), [(x,)], rho=1)
    rounds, dense = [np.asarray(x, np.float64)], flat(base)
    for _ in range(2):
        rounds.append(rounds[-1] @ np.asarray(dense["turns/dense/kernel"]) + np.asarray(dense["turns/dense/bias"]))
    inputs = np.concatenate(rounds)
    components = np.linalg.svd(inputs - inputs.mean(0))[2][:2]
    a = np.asarray(flat(params)["turns/dense/lora_a"], np.float64)
    np.testing.assert_allclose(np.abs(np.diag(components @ a)), 1, atol=1e-3)


class Foreign(nn.Module):
    """A kernel with its outputs around its inputs, experts with inputs of their own, and one that lies as torch has it."""

    @nn.compact
    def __call__(self, x):
        w, experts = (self.param(name, nn.initializers.normal(0.5), (2, 6, 3)) for name in ("w", "experts"))
        y = jnp.einsum("bd,ndh->bnh", x, w)
        z = jnp.einsum("nbd,ndh->bnh", jnp.stack([x, jnp.sin(x)]), experts)
        return nn.Einsum((4, 2, 3), "bnh,dnh->bd", use_bias=False, name="out")(y + z)


def test_kernels_of_any_module():
    (x,) = BATCHES[0]
    base = Foreign().init(jax.random.key(0), x)["params"]
    model, params = eva.adapt_to(jax.random.key(1), base, LoRA(Foreign(), LoRAConfig(rank=2)), [(x,)], rho=1)
    leaves = flat(params)
    y = jnp.einsum("bd,ndh->bnh", x, base["w"])
    z = jnp.einsum("nbd,ndh->bnh", jnp.stack([x, jnp.sin(x)]), base["experts"])
    for inputs, a in (
        (x, leaves["w:oio/lora_a"]),
        (x, leaves["experts:sio/lora_a"][0]),
        (np.sin(x), leaves["experts:sio/lora_a"][1]),
        ((y + z).reshape(40, 6), leaves["out/lora_b"].T),
    ):
        inputs = np.asarray(inputs, np.float64)
        components = np.linalg.svd(inputs - inputs.mean(0))[2][:2]
        np.testing.assert_allclose(np.abs(np.diag(components @ np.asarray(a, np.float64))), 1, atol=1e-3)
    assert_trees_close(model.apply({"params": params}, x), Foreign().apply({"params": base}, x), 1e-6)


class EndsAlike(nn.Module):
    """The root's `dense` sees two directions, `block/dense` noise in all."""

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(16, name="dense")(x)
        return Wrapped(name="block")(jnp.sin(50 * y))


class Wrapped(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="dense")(x)


def test_a_layer_that_gets_no_rank_is_left_out_though_its_name_ends_as_another_s():
    x = jnp.asarray(np.pad(RANDOM.normal(size=(200, 2)), ((0, 0), (0, 4))), jnp.float32)
    base = EndsAlike().init(jax.random.key(0), x)["params"]
    model, params = eva.adapt_to(jax.random.key(1), base, LoRA(EndsAlike(), LoRAConfig(rank=1)), [(x,)], rho=2)
    assert {path for path in flat(params) if path.endswith("lora_a")} == {"dense/lora_a"}
    assert params["dense"]["lora_a"].shape == (6, 2)
    assert jax.tree.map(jnp.shape, model.init(jax.random.key(0), x)["params"]) == jax.tree.map(jnp.shape, params)


def test_an_array_that_is_no_batch_of_arguments_says_so():
    with pytest.raises(LoRAError, match="each a tuple of the model's arguments"):
        eva.adapt_to(jax.random.key(0), {}, LoRA(Net(), LoRAConfig(rank=1)), [BATCHES[0][0]])
