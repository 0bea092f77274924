"""The best member of a sweep: is it a normal adapter, at its own rank, with its own config and head?"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lora_jax
from lora_jax import LoRA, LoRAConfig, LoRAError, sweep, tree_config
from lora_jax.models.mlp import MLP
from tests.cases import assert_trees_close, case_named, flat

pytestmark = pytest.mark.usefixtures("quick_compile")
BASE_MODULE, X = MLP(hidden=(6,), classes=3), jax.random.normal(jax.random.key(9), (8, 5))
DATA, ORDER = {"x": X, "y": jnp.arange(8) % 3}, jnp.arange(8, dtype=jnp.int32).reshape(4, 2)
HEAD = "classifier"
VARIANTS = [
    {},
    {"alpha": 16, "rank_pattern": {HEAD: 2}},
    {"scaling": "alpha/sqrt(r)", "alpha": 3, "dropout": 0.5},
    {"dora": True},
    {"init": "pissa"},
    {"init": "olora", "alpha": 2},
]


@functools.cache
def base() -> dict:
    return BASE_MODULE.init(jax.random.key(0), X)["params"]


def loss_of(model):
    def loss_fn(params, batch, key):
        logits = model.apply({"params": params}, batch["x"], rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), None

    return loss_fn


def trained(fields: dict, with_head: bool = True, alphas=(None,)):
    """(model, members, state, shared) after four steps; ranks 1 and 3."""
    model = LoRA(BASE_MODULE, LoRAConfig(rank=1, **fields))
    members = sweep.grid(ranks=(1, 3), alphas=alphas, learning_rates=(0.05,), seeds=(0, 1))
    stacked, shared = sweep.init_adapters(model, members, X, base_params=base()), base()
    if with_head:
        shared = {"hidden_0": base()["hidden_0"]}
        stacked = lora_jax.combine(stacked, sweep.broadcast({HEAD: base()[HEAD]}, len(members)))
    head = f"{HEAD}/bias" if fields.get("dora") else HEAD
    train = (head,) if with_head else ()
    trainer = sweep.Sweep(loss_of(model), optax.adam)
    state = trainer.start(stacked, lora_jax.trainable_mask(stacked, train=train), members=members)
    state, _ = trainer.run(state, shared, DATA, ORDER)
    return model, members, state, shared, train


def alone(model, member, train):
    """The same member, trained by itself."""
    own = model.with_config(dataclasses.replace(model.config, rank=member.rank))
    params = lora_jax.adapt(jax.random.key(member.seed), base(), own, X)
    mask = lora_jax.trainable_mask(params, train=train)
    frozen, trainable = lora_jax.partition(params, mask)
    tx = optax.adam(member.learning_rate)
    state = lora_jax.training.init_state(trainable, tx, jax.random.key(member.seed))
    state, _ = lora_jax.training.make_epoch(loss_of(own), tx)(state, frozen, DATA, ORDER)
    return lora_jax.combine(frozen, state.trainable), own.config


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_b8_a_member_is_the_adapter_that_it_would_be_alone(fields, tmp_path):
    model, members, state, shared, train = trained(fields)
    for told in (model.config, None):
        config, params = sweep.member(state, shared, members, 1, *([] if told is None else [told]))
        expected, its_config = alone(model, members[1], train)
        assert {path: leaf.shape for path, leaf in flat(params).items()} == {
            path: leaf.shape for path, leaf in flat(expected).items()
        }
        assert_trees_close(params, expected, 2e-4)
        assert config == its_config if told else config.rank == its_config.rank == 1
        own = LoRA(BASE_MODULE, config)
        mask = lora_jax.trainable_mask(params, train=train)
        folder = tmp_path / str(told is None)
        lora_jax.checkpoint.save_adapter(folder, params, config, mask=mask)
        fresh = lora_jax.adapt(jax.random.key(7), base(), own, X)
        back = lora_jax.checkpoint.restore_adapter(folder, fresh, config, mask=mask)
        assert jax.tree.all(jax.tree.map(jnp.array_equal, back, params))
        tree_config.require_config(params, config)


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_b8_a_member_is_merged_mixed_and_exchanged(fields, tmp_path):
    model, members, state, shared, _ = trained(fields, with_head=False)
    layout = lora_jax.layout(BASE_MODULE, X)
    trees = []
    for i in range(4):
        config, params = sweep.member(state, shared, members, i)
        trees.append(params)
        assert lora_jax.verify(LoRA(BASE_MODULE, config), params, X).holds
        merged = lora_jax.merge(params)
        assert_trees_close(BASE_MODULE.apply({"params": merged}, X), model.apply({"params": params}, X), 1e-4)
        lora_jax.peft.save(tmp_path / str(i), params, config, layout, mask=None)
        back = lora_jax.peft.load(tmp_path / str(i), base(), layout)
        assert_trees_close(model.apply({"params": back.params}, X), model.apply({"params": params}, X), 1e-5)
    stacked = lora_jax.bank.stack(base(), trees)
    got = lora_jax.bank.apply(model, base(), stacked, jnp.array([3, 2, 1, 0, -1, -1, 0, 1]), X)
    assert_trees_close(got[0], model.apply({"params": trees[3]}, X[:1])[0])


def test_b8_a_member_of_stacked_layers_keeps_its_alpha():
    case = case_named("tied_scan_remat")
    members = sweep.grid(ranks=(4, 2), alphas=(6, 0.3), learning_rates=(0.1,), seeds=(0,))
    stacked = sweep.init_adapters(case.model(), members, case.x())
    state = sweep.Sweep(lambda *_: (0.0, None), optax.adam).start(
        stacked, lora_jax.trainable_mask(stacked), members=members
    )
    for i, member in enumerate(members):
        config, params = sweep.member(state, lora_jax.strip(case.params()), members, i)
        fresh = lora_jax.adapt(
            jax.random.key(0), lora_jax.strip(case.params()), LoRA(case.model().base_module, config), case.x()
        )
        assert_trees_close(params, fresh, 1e-6)
        assert (config.rank, config.alpha, config.scaling) == (member.rank, member.alpha, "alpha/r")


def test_b8_without_adapters_there_is_no_config():
    stacked, members = sweep.broadcast(base(), 2), [sweep.Member(0, None, 0.1, 0), sweep.Member(0, None, 0.1, 1)]
    state = sweep.Sweep(lambda *_: (0.0, None), optax.adam).start(
        stacked, lora_jax.trainable_mask(stacked, train="*"), members=members
    )
    config, params = sweep.member(state, {}, members, np.int64(1))
    assert config is None and jax.tree.all(jax.tree.map(jnp.array_equal, params, base()))


@functools.cache
def plain():
    return trained({}, with_head=False)


def at(index=0, members=None, config=None):
    _, own, state, shared, _ = plain()
    return sweep.member(state, shared, own if members is None else members, index, config)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: at(4), "there is no member 4; the sweep has 0 to 3"),
        (lambda: at(-1), "there is no member -1"),
        (lambda: at(True), "there is no member True"),
        (lambda: at(0, [sweep.Member(1, None, 0.1, 0)] * 4), "are not those of the state"),
        (lambda: at(0, [sweep.Member(1, None, 0.05, 0)] * 5), "are not those of the state"),
        (lambda: at(2, None, LoRAConfig(rank=1, rank_pattern={HEAD: 1})), "has rank 3, and its config says 1"),
        (lambda: tree_config.require_config(at(2)[1], LoRAConfig(rank=2)), "has rank 3, and the config says 2"),
        (lambda: tree_config.require_config(at(2)[1], LoRAConfig(rank=3, dora=True)), "no magnitude, and the config says dora=True"),
        (lambda: tree_config.require_config(at(2)[1], LoRAConfig(rank=3, init="pissa")), "no start, and the config says init='pissa'"),
    ],
)  # fmt: skip
def test_b8_what_is_no_member_says_so(act, message):
    with pytest.raises(LoRAError, match=message):
        act()


USUAL = {"ranks": (1, 2), "learning_rates": (1e-3,), "seeds": (0, 1)}


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    "fields",
    [
        *({"seeds": (seed,)} for seed in (1.5, True, -1, 2**32, "0", None, np.float32(1), np.nan)),
        *({"learning_rates": (rate,)} for rate in (-1, 0, np.nan, np.inf, True, "1", 1e-60, None, -np.inf)),
        *({"ranks": (rank,)} for rank in (0, 1.5, -1, True, "2", None, np.float64(2))),
        *({"alphas": (alpha,)} for alpha in (0, -1, np.nan, True, "2", np.inf)),
        *({"seeds": twice} for twice in ((0, 0), (np.int32(1), 1))),
        *({"learning_rates": twice} for twice in ((0.1, 0.1), (0.1, np.float32(0.1)))),
        *({"ranks": (2, 2)}, {"alphas": (None, None)}, {"alphas": (1, 1.0)}),
        *({"seeds": ()}, {"ranks": 4}, {"seeds": "01"}, {"learning_rates": 0.1}, {"ranks": np.asarray(3)}),
    ],
    ids=str,
)
def test_b9_what_is_no_grid_is_refused_by_name(fields):
    with pytest.raises(LoRAError, match=next(iter(fields))):
        sweep.grid(**{**USUAL, **fields})


@pytest.mark.usefixtures("as_users_run_it")
def test_b9_numbers_of_numpy_and_the_largest_seed_are_members():
    got = sweep.grid(ranks=np.arange(1, 3), alphas=(None, 16), learning_rates=np.float64([1e-3]), seeds=(0, 2**32 - 1))
    assert got == [sweep.Member(r, a, 1e-3, s) for r in (1, 2) for a in (None, 16) for s in (0, 2**32 - 1)]
    assert type(got[0].rank) is int and type(got[0].learning_rate) is float


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "takes members=, those of sweep.grid, or"),
        ({"learning_rates": [0.1]}, "give the one or the other"),
        (
            {"learning_rates": [0.1], "seeds": [0], "members": [sweep.Member(1, None, 0.1, 0)]},
            "give the one or the other",
        ),
        ({"learning_rates": [np.nan], "seeds": [0]}, "learning_rates has nan"),
        ({"learning_rates": [0.1], "seeds": [1.5]}, "seeds has 1.5"),
        ({"members": [sweep.Member(1, None, -0.1, 0)]}, "learning_rates has -0.1"),
        ({"members": [sweep.Member(1, None, 0.1, 2**32)]}, "seeds has 4294967296"),
    ],
)
def test_b9_a_sweep_starts_with_members_or_their_rates_and_seeds(kwargs, message):
    with pytest.raises(LoRAError, match=message):
        sweep.Sweep(lambda *_: (0.0, None), optax.adam).start({"w": jnp.zeros(1)}, {"w": True}, **kwargs)


@pytest.mark.usefixtures("as_users_run_it")
def test_b9_an_optimiser_in_place_of_a_function_of_the_rate():
    with pytest.raises(LoRAError, match="a function of the learning rate"):
        sweep.Sweep(lambda *_: (0.0, None), optax.adam(1e-3))


def test_adapters_of_other_members_than_the_given_ones_are_refused():
    model, members = LoRA(BASE_MODULE, LoRAConfig(rank=1)), sweep.grid(ranks=(1, 3), learning_rates=(0.05,), seeds=(0,))
    stacked, trainer = sweep.init_adapters(model, members, X), sweep.Sweep(loss_of(model), optax.adam)
    mask = lora_jax.trainable_mask(stacked)
    trainer.start(stacked, mask, members=members)
    with pytest.raises(LoRAError, match="has rank 3 in a member of rank 1, and 1 in one of rank 3.*not in their order"):
        trainer.start(stacked, mask, members=members[::-1])
    same = LoRA(BASE_MODULE, LoRAConfig(rank=1, rank_pattern={"hidden_0": 2}))  # a rank of its own tells nothing
    stacked = sweep.init_adapters(same, members, X)
    trainer.start(stacked, lora_jax.trainable_mask(stacked), members=members)


@pytest.mark.parametrize("members", [[1e-3], [None]])
def test_members_that_are_none_are_one_sentence(members):
    trainer = sweep.Sweep(lambda params, batch, key: (0.0, None), optax.adam)
    with pytest.raises(Exception, match=r"members is a list; give the list of members|Type-check error"):
        trainer.start({"w": jnp.zeros(1)}, {"w": True}, members=members)


@pytest.mark.parametrize("variant", [{"dora": True}, {"init": "pissa"}])
def test_members_of_a_function_begin_at_its_first_argument(variant):
    params, x = {"w": jax.random.normal(jax.random.key(1), (3, 4))}, jnp.ones((2, 3))
    model = LoRA(lambda params, x: x @ params["w"], LoRAConfig(rank=2, targets="*", **variant))
    members = sweep.grid(ranks=(2,), learning_rates=(1e-3,), seeds=(0, 5))
    stacked = sweep.init_adapters(model, members, params, x)
    for m, member in enumerate(members):
        alone = lora_jax.adapter_of(lora_jax.adapt(jax.random.key(member.seed), params, model, x))
        assert_trees_close(jax.tree.map(lambda leaf, m=m: leaf[m], stacked), alone, 1e-6)
