"""Is every member of a sweep its own solo run, in one trace?"""

import dataclasses
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
    adapter_of,
    combine,
    merge,
    mesh,
    partition,
    strip,
    sweep,
    trainable_mask,
    training,
)
from lora_jax.models.mlp import MLP
from lora_jax.sweep import Member, Sweep, stacks
from tests.cases import assert_trees_close, case_named, flat

pytestmark = pytest.mark.usefixtures("quick_compile")

N, STEPS, BATCH = 60, 50, 8
DATA = {
    "x": jnp.asarray(np.random.default_rng(0).normal(size=(N, 6)), jnp.float32),
    "y": jnp.asarray(np.random.default_rng(1).integers(4, size=N), jnp.int32),
}
MODEL = LoRA(MLP(hidden=(8,), classes=4, dropout=0.1), LoRAConfig(rank=2, dropout=0.1))
ORDER = jnp.asarray(np.random.default_rng(2).integers(N, size=(STEPS, BATCH)), jnp.int32)
RANKS, SEEDS = (1, 2, 3, 4, 6, 8), range(5)
RATES = dict(zip(RANKS, (1e-2, 3e-3, 2e-2, 1e-3, 5e-3, 1e-2), strict=True))
MEMBERS = [Member(rank, 2.0 * rank if rank > 2 else None, RATES[rank], seed) for rank in RANKS for seed in SEEDS]


def adamw(learning_rate):
    return optax.adamw(learning_rate, weight_decay=0.1)


def loss_fn(params, batch, key):
    logits = MODEL.apply({"params": params}, batch["x"], train=True, rngs={"dropout": key})
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), logits.sum(-1)


@functools.cache
def base_params():
    return jax.jit(MODEL.base_module.init)(jax.random.key(0), DATA["x"])["params"]


@functools.cache
def stacked():
    return sweep.init_adapters(MODEL, MEMBERS, DATA["x"])


def some(indices):
    """A few of the members, and their adapters."""
    indices = list(indices)
    return [MEMBERS[i] for i in indices], jax.tree.map(lambda leaf: leaf[np.asarray(indices)], stacked())


def started(runner, adapters, members=MEMBERS):
    rates, seeds = [member.learning_rate for member in members], [member.seed for member in members]
    return runner.start(adapters, trainable_mask(adapters), learning_rates=rates, seeds=seeds)


@functools.cache
def swept(strategy):
    runner = Sweep(loss_fn, adamw, strategy=strategy)
    state, (losses, metrics) = runner.run(started(runner, stacked()), base_params(), DATA, ORDER)
    return runner, state, losses, metrics


@functools.cache
def solo_epoch(rank):
    return training.make_epoch(loss_fn, adamw(RATES[rank]))


def solo(member):
    """(losses, trained adapter) of the member's run on its own, at its own rank, through the front door."""
    alpha = MODEL.config.alpha if member.alpha is None else member.alpha
    model = LoRA(MODEL.base_module, dataclasses.replace(MODEL.config, rank=member.rank, alpha=alpha))
    params = adapt(jax.random.key(member.seed), base_params(), model, DATA["x"])
    frozen, trainable = partition(params, trainable_mask(params))
    state = training.init_state(trainable, adamw(member.learning_rate), jax.random.key(member.seed))
    state, (losses, _) = solo_epoch(member.rank)(state, frozen, DATA, ORDER)
    return losses, state.trainable


def unpadded(path, leaf, rank):
    return leaf[..., :rank] if path.endswith("lora_a") else leaf[..., :rank, :]


def relative(got, expected):
    return np.max(np.abs(np.asarray(got) - np.asarray(expected))) / np.max(np.abs(np.asarray(expected)))


@pytest.mark.parametrize("index", range(0, len(MEMBERS), 3))
def test_a_member_equals_its_solo_run(index):
    _, state, losses, _ = swept("sequential")
    expected_losses, expected = solo(MEMBERS[index])
    assert relative(losses[index], expected_losses) < 1e-5
    for path, leaf in flat(state.train.trainable).items():
        got = unpadded(path, leaf[index], MEMBERS[index].rank)
        assert relative(got, flat(expected)[path]) < 1e-5, path


def test_thirty_members_take_one_trace():
    runner, state, losses, metrics = swept("sequential")
    assert runner.traces == ["members=30 order=(50, 8)"]
    assert losses.shape == (30, STEPS)
    assert metrics.shape == (30, STEPS, BATCH)
    assert len(np.unique(np.asarray(losses[:, -1]))) == 30


def test_new_epochs_rates_and_adapters_take_no_new_trace():
    runner = Sweep(loss_fn, adamw)
    for indices in ((0, 10, 20), (4, 14, 29)):
        members, adapters = some(indices)
        state = started(runner, adapters, members)
        for order in (ORDER[:3], ORDER[3:6]):
            state, _ = runner.run(state, base_params(), DATA, order)
    assert len(runner.traces) == 1


def test_the_strategies_agree():
    (_, one, losses, _), (_, other, other_losses, _) = swept("sequential"), swept("vmap")
    assert relative(losses, other_losses) < 1e-5
    for path, leaf in flat(one.train.trainable).items():
        assert relative(leaf, flat(other.train.trainable)[path]) < 1e-5, path


@pytest.mark.parametrize("strategy", ["sequential", "vmap"])
def test_padding_stays_exactly_zero_and_the_rest_does_not(strategy):
    padding = flat(sweep.is_padding(MODEL, stacked(), MEMBERS))
    for path, leaf in flat(swept(strategy)[1].train.trainable).items():
        leaf = np.asarray(leaf)
        assert padding[path].any()
        assert not np.any(leaf[padding[path]]), path
        assert np.all(leaf[~padding[path]]), path


def test_padding_is_that_of_each_member():
    padding = flat(sweep.is_padding(MODEL, stacked(), MEMBERS))
    wide = max(RANKS)
    for index, member in enumerate(MEMBERS):
        assert padding["hidden_0/lora_a"][index].sum() == 6 * (wide - member.rank)
        assert padding["hidden_0/lora_b"][index].sum() == 8 * (wide - member.rank)


def test_each_member_starts_as_adapt_makes_it():
    for index in (0, 12, 29):
        member = MEMBERS[index]
        config = dataclasses.replace(MODEL.config, rank=member.rank, alpha=member.alpha or MODEL.config.alpha)
        expected = adapt(jax.random.key(member.seed), base_params(), LoRA(MODEL.base_module, config), DATA["x"])
        for path, leaf in flat(stacked()).items():
            got = leaf[index] if path.endswith("scale") else unpadded(path, leaf[index], member.rank)
            np.testing.assert_allclose(got, flat(expected)[path], rtol=1e-6)


def test_members_keep_their_order_whatever_their_ranks():
    members = [Member(rank, None, 0.1, seed) for seed, rank in enumerate((4, 1, 2, 4, 1))] + [Member(1, 3.0, 0.1, 0)]
    adapters = flat(sweep.init_adapters(MODEL, members, DATA["x"]))
    ranks = [int(np.any(a, axis=0).sum()) for a in np.asarray(adapters["hidden_0/lora_a"])]
    assert ranks == [4, 1, 2, 4, 1, 1]
    assert adapters["hidden_0/lora_scale"].tolist() == [1.0] * 5 + [3.0]


def test_a_rank_pattern_keeps_its_rank_in_every_member():
    model = LoRA(MODEL.base_module, LoRAConfig(rank=2, rank_pattern={"classifier": 2}))
    members = sweep.grid(ranks=(1, 4), learning_rates=(0.1,), seeds=(0,))
    adapters = sweep.init_adapters(model, members, DATA["x"])
    assert adapters["classifier"]["lora_a"].shape == (2, 8, 2)
    padding = flat(sweep.is_padding(model, adapters, members))
    assert not padding["classifier/lora_a"].any()
    assert padding["hidden_0/lora_a"].sum() == 6 * 3


def test_stacked_layers_and_embeddings_pad_too():
    case = case_named("tied_scan_remat")
    members = sweep.grid(ranks=(1, 3), learning_rates=(0.1,), seeds=(0,))
    adapters = sweep.init_adapters(case.model(), members, case.x())
    assert {path: leaf.shape for path, leaf in flat(adapters).items() if "up" in path or "embed" in path} == {
        "embed/lora_a": (2, 7, 3),
        "embed/lora_b": (2, 3, 4),
        "embed/lora_scale": (2,),
        "blocks/up/lora_a": (2, 3, 4, 3),
        "blocks/up/lora_b": (2, 3, 3, 6),
        "blocks/up/lora_scale": (2, 3),
    }
    padding = flat(sweep.is_padding(case.model(), adapters, members))
    assert padding["embed/lora_b"][0].sum() == 2 * 4
    assert padding["blocks/up/lora_a"][0].sum() == 3 * 4 * 2
    assert not any(np.any(np.asarray(flat(adapters)[path])[where]) for path, where in padding.items())


@pytest.mark.parametrize("strategy", ["sequential", "vmap"])
def test_one_order_per_member(strategy):
    members, adapters = some(range(2))
    runner, orders = Sweep(loss_fn, adamw, strategy=strategy), jnp.stack([ORDER[:5], ORDER[5:10]])
    _, (got, _) = runner.run(started(runner, adapters, members), base_params(), DATA, orders)
    assert relative(got[0], swept("sequential")[2][0, :5]) < 1e-5
    assert np.abs(np.asarray(got[1] - swept("sequential")[2][1, :5])).max() > 1e-3


def with_heads(adapters, head, members):
    copies = sweep.broadcast(dict(head), members)
    return {**adapters, "classifier": {**adapters["classifier"], **copies}}


def test_the_heads_of_members_train_apart_and_the_shared_base_stays():
    base = base_params()
    before = jax.tree.map(np.array, base)
    whole = with_heads(some((0, 15))[1], base["classifier"], members=2)
    shared = {"hidden_0": base["hidden_0"]}
    runner = Sweep(loss_fn, adamw)
    state = runner.start(whole, trainable_mask(whole, train="classifier"), learning_rates=[0.1, 0.1], seeds=[0, 1])
    state, _ = runner.run(state, shared, DATA, ORDER[:5])
    kernels = np.asarray(state.train.trainable["classifier"]["kernel"])
    assert np.all(np.any(kernels != np.asarray(base["classifier"]["kernel"]), axis=(1, 2)))
    assert np.any(kernels[0] != kernels[1])
    jax.tree.map(np.testing.assert_array_equal, base, before)
    member = sweep.member_params(state, shared, 1)
    np.testing.assert_array_equal(member["classifier"]["kernel"], kernels[1])
    np.testing.assert_array_equal(strip(member)["hidden_0"]["kernel"], before["hidden_0"]["kernel"])


def test_a_head_that_is_in_the_base_and_the_members_is_one_sentence():
    head = {"classifier": base_params()["classifier"]}
    own = combine(stacked(), sweep.broadcast(head, len(MEMBERS)))
    trainer = Sweep(loss_fn, adamw)
    state = trainer.start(own, trainable_mask(own, train="classifier"), members=MEMBERS)
    evaluate = trainer.evaluation(lambda params, batch: {"ones": jnp.ones(len(batch["y"]))}, 20)
    told = r"classifier/\w+ is in the base that the members share, and is each member's own; give the base without it"
    for call in (
        lambda: trainer.run(state, base_params(), DATA, ORDER),
        lambda: evaluate(state, base_params(), DATA),
        lambda: sweep.member(state, base_params(), MEMBERS, 0),
    ):
        with pytest.raises(LoRAError, match=told):
            call()


@pytest.mark.parametrize("strategy", ["sequential", "vmap"])
def test_evaluation_is_that_of_each_member(strategy):
    runner, state, _, _ = swept(strategy)

    def metric_fn(params, batch):
        return MODEL.apply({"params": params}, batch["x"])

    got = runner.evaluation(metric_fn, batch_size=7)(state, base_params(), DATA)
    for index in (0, 29):
        expected = metric_fn(sweep.member_params(state, base_params(), index), DATA).sum(axis=0)
        np.testing.assert_allclose(got[index], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adamw,
        lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True),
        optax.lion,
        lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
    ],
    ids=["adamw", "sgd", "lion", "clipped_adam"],
)
def test_element_wise_optimisers_are_accepted(optimizer):
    started(Sweep(loss_fn, optimizer), stacked())


@pytest.mark.parametrize("optimizer", [optax.adafactor, optax.contrib.muon], ids=["adafactor", "muon"])
def test_optimisers_that_mix_entries_are_refused_unless_nothing_is_padded(optimizer):
    runner = Sweep(loss_fn, optimizer)
    with pytest.raises(LoRAError, match="mixes the entries of a matrix"):
        started(runner, stacked())
    rates, seeds = [1e-2] * len(MEMBERS), range(len(MEMBERS))
    runner.start(stacked(), trainable_mask(stacked()), learning_rates=rates, seeds=list(seeds), padded=False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Sweep(loss_fn, adamw, strategy="parallel"), "strategy is 'parallel'"),
        (lambda: started(Sweep(loss_fn, adamw), stacked(), MEMBERS[:3]), "disagree on their number"),
        (lambda: sweep.init_adapters(MODEL, [], DATA["x"]), "no members"),
        (lambda: sweep.init_adapters(MODEL, [Member(0, None, 0.1, 0)], DATA["x"]), "rank is 0"),
        (lambda: sweep.init_adapters(MODEL, [Member(1, -1.0, 0.1, 0)], DATA["x"]), "alpha is -1.0"),
    ],
    ids=["strategy", "lengths", "empty", "rank", "alpha"],
)
def test_bad_sweeps_are_refused(call, message):
    with pytest.raises(LoRAError, match=message):
        call()


def test_a_member_without_alpha_takes_the_configs():
    fixed = LoRA(MODEL.base_module, dataclasses.replace(MODEL.config, alpha=6))
    stacked = sweep.init_adapters(fixed, sweep.grid(ranks=(2, 3), learning_rates=(0.1,), seeds=(0,)), DATA["x"])
    np.testing.assert_allclose(stacked["classifier"]["lora_scale"], [6 / 2, 6 / 3])


@pytest.mark.parametrize("fields", [{"init": "pissa"}, {"init": "orthogonal", "dora": True}], ids=str)
def test_members_that_begin_at_the_base_are_those_of_adapt(fields):
    case = case_named("tied_scan_remat").variant(**fields)
    model, base, x = case.model(), strip(case.params()), case.x()
    members = sweep.grid(ranks=(4, 2), learning_rates=(1e-2,), seeds=(0, 1))
    stacked = sweep.init_adapters(model, members, x, base_params=base)
    for i, member in enumerate(members):
        alone = adapt(
            jax.random.key(member.seed), base, model.with_config(dataclasses.replace(case.config, rank=member.rank)), x
        )
        own = combine(base, jax.tree.map(lambda leaf, i=i: leaf[i], stacked))
        assert_trees_close(merge(own), merge(alone), 2e-6)
        for path, leaf in flat(adapter_of(alone)).items():
            np.testing.assert_allclose(flat(own)[path][tuple(map(slice, leaf.shape))], leaf, atol=2e-5)
    with pytest.raises(LoRAError, match="base_params="):
        sweep.init_adapters(model, members, x)


def test_what_is_spread_over_processes_is_gathered_by_one_program(monkeypatch):
    """A program for each leaf is more than a device takes at a time, and processes wait for each other for ever."""
    monkeypatch.setattr(stacks, "_is_spread", lambda leaf: True)
    tree = {str(i): mesh.put(np.arange(4.0) + i, mesh.make()) for i in range(40)}
    before = stacks._gathered._cache_size()
    got = sweep.first(tree, 3)
    assert stacks._gathered._cache_size() == before + 1
    assert {name: leaf.tolist() for name, leaf in got.items()} == {str(i): [i, i + 1, i + 2] for i in range(40)}
