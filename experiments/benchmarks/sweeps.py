"""Ranks x seeds in one program against the same runs one by one, with and without compilation."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import lora_jax
from experiments.benchmarks import floor, flops, setting, timing
from experiments.common.classification import cross_entropy
from lora_jax import sweep, training

RANKS, SEEDS = (1, 2, 4, 8, 16, 32), 5


def one_program_against_serial(steps: int, rounds: int) -> dict[str, Any]:
    """Seconds for all members: the first call (tracing, compilation and run) and later ones."""
    contestants = {
        "serial": lambda: _serial(steps),
        "vmap": lambda: _sweep("vmap", steps),
        "sequential": lambda: _sweep("sequential", steps),
    }
    rows: dict[str, Any] = {}
    works, operations = {}, {}
    for name, make in contestants.items():
        jax.clear_caches()  # each contestant pays for its own compilation
        start = time.perf_counter()
        works[name], operations[name] = make()
        jax.block_until_ready(works[name]())
        rows[name] = {"with_compilation_s": time.perf_counter() - start}
    times, rate = floor.alternate(works, rounds)
    runs = len(RANKS) * SEEDS
    for name, values in times.items():
        row = timing.summarise(values, per=runs * steps)
        rows[name] |= floor.against(row, operations[name] / runs / steps, rate) | {"members": runs}
    ratio = {}
    for name in ("vmap", "sequential"):
        ratio[f"serial / {name}, with compilation"] = (
            rows["serial"]["with_compilation_s"] / rows[name]["with_compilation_s"]
        )
        ratio[f"serial / {name}, compiled"] = rows["serial"]["median_ms"] / rows[name]["median_ms"]
    return {"rows": rows, "ratio": ratio, "steps": steps}


def _members() -> list[sweep.Member]:
    return sweep.grid(ranks=RANKS, learning_rates=(setting.RATE,), seeds=range(SEEDS))


def _sweep(strategy: str, steps: int):
    model, members = setting.wrapped(), _members()
    trainer = sweep.Sweep(cross_entropy(model), optax.adam, strategy)
    stacked = sweep.init_adapters(model, members, jnp.ones((1, 784)))
    return training_of(trainer, members, stacked, shared=setting.base(), data=setting.data(), order=_order(steps))


def training_of(
    trainer: sweep.Sweep, members: list[sweep.Member], stacked, train=(), *, shared, data, order
) -> tuple[Callable[[], jax.Array], float]:
    """Starts the members; returned is the training alone, to be repeated, whose losses are [M, S], and the FLOPs of its program.

    What members share is computed once, the first layer of the base on a common batch for one: it is counted once.

    Args:
      stacked: what differs between members; of it the adapters train, and what `train` names.
    """
    rates = [member.learning_rate for member in members]
    seeds = [member.seed for member in members]
    mask = lora_jax.trainable_mask(stacked, train=train)
    states = [trainer.start(stacked, mask, learning_rates=rates, seeds=seeds)]
    operations = flops.of_products(trainer.run, states[0], shared, data, order)

    def work():
        states[0], (losses, _) = trainer.run(states[0], shared, data, order)
        return losses

    return work, operations


def _order(steps: int) -> jax.Array:
    return setting.order((steps, setting.BATCH), setting.EXAMPLES)


def _serial(steps: int):
    """Runs one by one, each a scanned epoch; those of a rank share its compiled programs, as a careful user's would."""
    shared, data, order = setting.base(), setting.data(), _order(steps)
    runs = []
    for rank in RANKS:
        model = setting.wrapped(rank)
        draw = jax.jit(lambda key, model=model: lora_jax.adapter_of(model.init(key, jnp.ones((1, 784)))["params"]))
        mask = lora_jax.trainable_mask(jax.eval_shape(draw, jax.random.key(0)))
        tx = lora_jax.lora_optimizer(optax.adam(setting.RATE), mask)
        epoch = training.make_epoch(cross_entropy(model), tx)
        for seed in range(SEEDS):
            scales, trainable = lora_jax.partition(draw(jax.random.key(seed)), mask)
            frozen = lora_jax.combine(shared, scales)
            runs.append([epoch, training.init_state(trainable, tx, jax.random.key(seed)), frozen])

    def work():
        for run in runs:
            run[1], (losses, _) = run[0](run[1], run[2], data, order)
        return [run[1].trainable for run in runs]

    return work, steps * SEEDS * sum(floor.of_step(setting.lora(rank)) for rank in RANKS)
