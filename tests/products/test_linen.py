"""Linen models whose layers no class is known of: kernels that a module multiplies itself, stacks along any axis, cells, experts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

import lora_jax
from lora_jax import LoRA, LoRAConfig, training, verify
from lora_jax.errors import LoRAError, TargetError
from lora_jax.tree import flat
from tests.cases import randomised

pytestmark = pytest.mark.usefixtures("quick_compile")
ALL = LoRAConfig(rank=2, alpha=3)


class Einsum(nn.Module):
    """Gemma's: the equation is given at the call."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, equation, x):
        return jnp.einsum(equation, x, self.param("w", nn.initializers.normal(0.3), self.shape))


class Gemma(nn.Module):
    @nn.compact
    def __call__(self, ids):
        table = self.param("table", nn.initializers.normal(1.0), (11, 8))
        x = table[ids]
        q = Einsum((2, 8, 4), name="q_einsum")("btd,ndh->btnh", x)
        k, v = Einsum((2, 1, 8, 4), name="kv_einsum")("bsd,ckdh->cbskh", x)
        weights = nn.softmax(jnp.einsum("btnh,bskh->bnts", q, k))
        context = jnp.einsum("bnts,bskh->btnh", weights, v)
        x = x + Einsum((2, 4, 8), name="attn_vec_einsum")("btnh,nhd->btd", context)
        x = x + nn.Dense(8, name="mlp")(jnp.tanh(x))
        return x @ table.T


class Scanned(nn.Module):
    """MaxText's layout: layers along axis 1 of their parameters."""

    axis: int = 1

    @nn.compact
    def __call__(self, x):
        def layer(module, x, _):
            return jnp.tanh(module(x)), None

        scan = nn.scan(layer, variable_axes={"params": self.axis}, split_rngs={"params": True}, length=3)
        return scan(nn.Dense(6, use_bias=False, name="dense"), x, None)[0]


class Experts(nn.Module):
    @nn.compact
    def __call__(self, x):
        up = self.param("up", nn.initializers.normal(0.3), (3, 6, 5))
        down = self.param("down", nn.initializers.normal(0.3), (3, 5, 6))
        gates = nn.softmax(nn.Dense(3, name="router")(x))
        hidden = nn.relu(jnp.einsum("btd,edf->btef", x, up))
        return jnp.einsum("bte,btef,efd->btd", gates, hidden, down)


IDS, X = (
    jnp.array([[1, 4, 2, 0], [3, 3, 10, 7]]),
    jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 6)), jnp.float32),
)
MODELS = {
    "gemma": (Gemma(), IDS, {"q_einsum/w:oio", "kv_einsum/w:ooio", "attn_vec_einsum/w:iio", "mlp"}),
    "scan over axis 1": (Scanned(), X, {"dense/kernel:iso"}),
    "scan over the last axis": (Scanned(-1), X, {"dense/kernel:ios"}),
    "LSTM": (nn.RNN(nn.OptimizedLSTMCell(5)), X, {f"cell/{side}{gate}" for side in "ih" for gate in "ifgo"}),
    "experts": (Experts(), X, {"up:oio", "down:iio", "router"}),
}


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    return LoRA(MODELS[name][0], ALL)


@pytest.fixture
def x(name):
    return MODELS[name][1]


@pytest.fixture
def params(model, x):
    base = jax.jit(model.base_module.init)(jax.random.key(0), x)["params"]
    return lora_jax.adapt(jax.random.key(1), base, model, x)


def test_all_linear_is_every_matrix_that_a_product_eats(name, params):
    assert {path.removesuffix("/lora_a") for path in flat(params) if path.endswith("lora_a")} == MODELS[name][2]


def test_it_begins_as_the_base(model, params, x):
    np.testing.assert_array_equal(
        model.apply({"params": params}, x), model.base_module.apply({"params": lora_jax.strip(params)}, x)
    )


def test_it_holds(model, params, x):
    found = verify(model, params, x)
    assert found.holds, str(found)


def test_four_steps_train_the_adapters_and_nothing_else(model, params, x, tmp_path):
    mask = lora_jax.trainable_mask(params)
    frozen, trainable = lora_jax.partition(params, mask)
    before = jax.tree.map(np.array, frozen)

    def loss_fn(params, batch, key):
        return jnp.mean(model.apply({"params": params}, batch) ** 2), {}

    tx = lora_jax.lora_optimizer(optax.adam(1e-2), mask)
    state = training.init_state(trainable, tx, jax.random.key(0))
    state, (losses, _) = training.make_epoch(loss_fn, tx)(state, frozen, x, jnp.tile(jnp.arange(2), (4, 1)))
    assert losses[-1] < losses[0]
    jax.tree.map(np.testing.assert_array_equal, before, frozen)
    assert all(
        np.any(new != old)
        for new, old in zip(jax.tree.leaves(state.trainable), jax.tree.leaves(trainable), strict=True)
    )
    trained = lora_jax.combine(frozen, state.trainable)
    lora_jax.checkpoint.save_adapter(tmp_path / "adapter", trained, model.config, mask=mask, collections={})
    back = lora_jax.checkpoint.restore_adapter(tmp_path / "adapter", params, model.config, mask=mask)
    np.testing.assert_array_equal(model.apply({"params": back}, x), model.apply({"params": trained}, x))
    assert len(lora_jax.report(trained).rows) == len(flat(trainable)) / 2


def test_members_of_a_sweep(model, params, x):
    members = lora_jax.sweep.grid(ranks=(1, 2), learning_rates=(1e-2,), seeds=(0,))
    stacked = lora_jax.sweep.init_adapters(model, members, x)
    one = jax.tree.map(lambda leaf: leaf[0], stacked)
    run = lambda adapter: model.apply({"params": lora_jax.combine(lora_jax.strip(params), adapter)}, x)  # noqa: E731
    both = jax.jit(jax.vmap(run))(stacked)
    alone = model.apply({"params": lora_jax.combine(lora_jax.strip(params), one)}, x)
    np.testing.assert_allclose(both[0], alone, rtol=1e-5, atol=1e-6)


def test_targets_speak_of_modules_and_of_leaves():
    def adapted(**fields):
        model = LoRA(Gemma(), LoRAConfig(rank=2, **fields))
        leaves = flat(jax.eval_shape(model.init, jax.random.key(0), IDS)["params"])
        return {
            path.removesuffix("/lora_a"): leaf.shape[-1] for path, leaf in leaves.items() if path.endswith("lora_a")
        }

    assert adapted(targets="q_einsum") == {"q_einsum/w:oio": 2}
    assert adapted(targets="*/w", excludes="kv_einsum") == {"q_einsum/w:oio": 2, "attn_vec_einsum/w:iio": 2}
    assert adapted(targets=("mlp", "table"), rank_pattern={"table": 1}) == {"mlp": 2, "table:io": 1}


def test_a_pattern_that_selects_nothing_names_what_is_there():
    with pytest.raises(TargetError, match=r"targets: 'q_einsun' matches no layer .* closest to 'q_einsun': q_einsum"):
        LoRA(Gemma(), LoRAConfig(rank=2, targets="q_einsun")).init(jax.random.key(0), IDS)


@pytest.mark.parametrize("fields", [{"dora": True}, {"init": "pissa"}, {"init": "orthogonal"}])
def test_other_starts_at_kernels_in_order(fields):
    model, x = LoRA(nn.RNN(nn.OptimizedLSTMCell(5)), LoRAConfig(rank=2, **fields)), X
    base = jax.jit(model.base_module.init)(jax.random.key(0), x)["params"]
    params = lora_jax.adapt(jax.random.key(1), base, model, x)
    np.testing.assert_allclose(
        model.apply({"params": params}, x), model.base_module.apply({"params": base}, x), atol=1e-6
    )
    assert verify(model, params, x).holds


def test_a_peft_folder_of_such_kernels(tmp_path):
    """torch has each as one Linear: all that is summed over in, all that is free out."""
    model = LoRA(Gemma(), ALL)
    params = randomised(model.init(jax.random.key(0), IDS)["params"], seed=3)
    layout = lora_jax.layout(model, IDS)
    lora_jax.peft.save(tmp_path / "peft", params, ALL, layout, mask=None)
    tensors = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert tensors["base_model.model.q_einsum.w.lora_B.weight"].shape == (8, 2)
    back = lora_jax.peft.load(tmp_path / "peft", lora_jax.strip(params), layout).params
    jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.parametrize("dora", [False, True])
def test_roles_that_a_config_tells_are_in_layout_and_report(dora):
    """Keys and values with an `a` each."""
    config = LoRAConfig(rank=2, targets="kv_einsum", roles={"kv_einsum/w": "soio"}, dora=dora)
    model = LoRA(Gemma(), config)
    params = randomised(model.init(jax.random.key(0), IDS)["params"], seed=3)
    layout = lora_jax.layout(model, IDS)
    assert layout["kv_einsum/w:soio"].stack == (2,)
    (row,) = lora_jax.report(params, config=config, layout=layout).rows
    assert row.a == (2, 8, 2) and row.kind == ("Einsum+DoRA" if dora else "Einsum")
    change = np.asarray(lora_jax.merge(params)["kv_einsum"]["w"]) - np.asarray(params["kv_einsum"]["w"])
    np.testing.assert_allclose(row.norm, np.linalg.norm(change), rtol=1e-4)


def test_a_tied_table_is_no_layer_of_peft(tmp_path):
    model = LoRA(Gemma(), LoRAConfig(rank=2, targets="table"))
    params = model.init(jax.random.key(0), IDS)["params"]
    with pytest.raises(
        LoRAError, match="table is tied, and PEFT gives what it holds to the input alone .*output_layer="
    ):
        lora_jax.peft.save(tmp_path / "peft", params, model.config, lora_jax.layout(model, IDS), mask=None)


def test_a_bank_and_algebra():
    model = LoRA(Gemma(), ALL)
    base = jax.jit(model.base_module.init)(jax.random.key(0), IDS)["params"]
    adapters = [
        lora_jax.adapter_of(randomised(lora_jax.adapt(jax.random.key(i), base, model, IDS), seed=i)) for i in (1, 2)
    ]
    bank = lora_jax.bank.stack(base, adapters)
    got = lora_jax.bank.apply(model, base, bank, jnp.array([1, -1]), IDS)
    expected = model.apply({"params": lora_jax.combine(base, adapters[1])}, IDS)[0]
    np.testing.assert_allclose(got[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got[1], model.base_module.apply({"params": base}, IDS)[1], rtol=1e-4, atol=1e-5)
    both = lora_jax.algebra.combine(adapters, [0.5, 0.5])
    added = lora_jax.merge(lora_jax.combine(base, both))["q_einsum"]["w"] - base["q_einsum"]["w"]
    updates = [lora_jax.merge(lora_jax.combine(base, a))["q_einsum"]["w"] - base["q_einsum"]["w"] for a in adapters]
    np.testing.assert_allclose(added, sum(updates) / 2, atol=1e-5)
