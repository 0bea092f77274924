"""Ranks x seeds in one program against the same runs one by one, with and without compilation."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import lora_jax
from experiments.benchmarks import floor, flops, setting, timing
from experiments.common.classification import cross_entropy
from lora_jax import sweep, training

RANKS, SEEDS = (1, 2, 4, 8, 16, 32), 5


class Way(NamedTuple):
    """One way to train the members: the training alone, to be repeated, and what counts the FLOPs of a call."""

    work: Callable[[], Any]
    operations: Callable[[], float]


def one_program_against_serial(
    steps: int, rounds: int, ranks: tuple[int, ...] | None = None, seeds: int | None = None, *, afresh: bool = True
) -> dict[str, Any]:
    """Every rank with every seed, by default those of RANKS and SEEDS; see `compared`."""
    ranks, seeds = ranks or RANKS, seeds or SEEDS
    members = sweep.grid(ranks=ranks, learning_rates=(setting.RATE,), seeds=range(seeds))
    contestants = {
        "serial": lambda: _serial(steps, ranks, seeds),
        "vmap": lambda: _sweep("vmap", steps, members),
        "sequential": lambda: _sweep("sequential", steps, members),
    }
    runs = len(members)
    found = compared(contestants, runs * steps, rounds, afresh=afresh)
    rows = {name: row | {"members": runs} for name, row in found["rows"].items()}
    return {"rows": rows, "ratio": found["ratio"], "steps": steps}


def compared(
    contestants: dict[str, Callable[[], Way]], per: int, rounds: int, *, afresh: bool = True
) -> dict[str, Any]:
    """Time per unit of work; the first way over the others.

    Args:
      per: units of work in a call.
      afresh: whether each way is compiled anew, so that the seconds of making it and of its first call can be compared, too.
    """
    rows, ways, operations = {}, {}, {}
    for name, make in contestants.items():
        if afresh:
            jax.clear_caches()  # each contestant pays for its own compilation
        start = time.perf_counter()
        ways[name] = make()
        jax.block_until_ready(ways[name].work())
        rows[name] = {"with_compilation_s": time.perf_counter() - start} if afresh else {}
        operations[name] = ways[name].operations()  # our own counting is no part of what is timed
    times, rate = floor.alternate({name: way.work for name, way in ways.items()}, rounds)
    for name, values in times.items():
        rows[name] |= floor.against(timing.summarise(values, per=per), operations[name] / per, rate)
    (first, start), *others = rows.items()
    ratio = {}
    for name, row in others:
        if afresh:
            ratio[f"{first} / {name}, with compilation"] = start["with_compilation_s"] / row["with_compilation_s"]
        ratio[f"{first} / {name}, compiled"] = start["median_ms"] / row["median_ms"]
    return {"rows": rows, "ratio": ratio}


def _sweep(strategy: str, steps: int, members: list[sweep.Member]) -> Way:
    model = setting.wrapped()
    trainer = sweep.Sweep(cross_entropy(model), optax.adam, strategy)
    stacked = sweep.init_adapters(model, members, jnp.ones((1, 784)))
    return training_of(trainer, members, stacked, shared=setting.base(), data=setting.data(), order=_order(steps))


def training_of(trainer: sweep.Sweep, members: list[sweep.Member], stacked, train=(), *, shared, data, order) -> Way:
    """Starts the members; the way's work returns their losses [M, S].

    What members share is computed once, the first layer of the base on a common batch for one: it is counted once.

    Args:
      stacked: what differs between members; of it the adapters train, and what `train` names.
    """
    rates = [member.learning_rate for member in members]
    seeds = [member.seed for member in members]
    mask = lora_jax.trainable_mask(stacked, train=train)
    states = [trainer.start(stacked, mask, learning_rates=rates, seeds=seeds)]

    def work():
        states[0], (losses, _) = trainer.run(states[0], shared, data, order)
        return losses

    return Way(work, lambda: flops.of_products(trainer.run, states[0], shared, data, order))


def _order(steps: int) -> jax.Array:
    return setting.order((steps, setting.BATCH), setting.EXAMPLES)


def _serial(steps: int, ranks: tuple[int, ...], seeds: int) -> Way:
    """Runs one by one, each a scanned epoch; those of a rank share its compiled programs, as a careful user's would."""
    shared, data, order = setting.base(), setting.data(), _order(steps)
    runs = []
    for rank in ranks:
        model = setting.wrapped(rank)
        draw = jax.jit(lambda key, model=model: lora_jax.adapter_of(model.init(key, jnp.ones((1, 784)))["params"]))
        mask = lora_jax.trainable_mask(jax.eval_shape(draw, jax.random.key(0)))
        tx = lora_jax.lora_optimizer(optax.adam(setting.RATE), mask)
        epoch = training.make_epoch(cross_entropy(model), tx)
        for seed in range(seeds):
            scales, trainable = lora_jax.partition(draw(jax.random.key(seed)), mask)
            frozen = lora_jax.combine(shared, scales)
            runs.append([epoch, training.init_state(trainable, tx, jax.random.key(seed)), frozen])

    def work():
        for run in runs:
            run[1], (losses, _) = run[0](run[1], run[2], data, order)
        return [run[1].trainable for run in runs]

    return Way(work, lambda: steps * seeds * sum(floor.of_step(setting.lora(rank)) for rank in ranks))
