"""A LoRA step against a full fine-tuning step, and a scanned epoch against a Python loop of jitted steps."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import floor, setting, timing
from lora_jax import training

COMPARED = ("median_ms", "flops", "optimizer_bytes", "temporary_bytes")


def lora_against_full(steps: int, rounds: int) -> dict[str, Any]:
    """See `measured`."""
    rows, rate = measured({"LoRA": setting.lora(), "full": setting.full()}, steps, rounds)
    return {"rows": rows, "ratio": ratios(rows["LoRA"], rows["full"]), "matmul_gflops": rate.flops / 1e9}


def measured(
    rivals: dict[str, setting.Rival], steps: int, rounds: int, works: dict[str, Callable] | None = None
) -> tuple[dict[str, Any], floor.Rates]:
    """Each rival's time per step in a scanned epoch, what a step costs, and the rates that the device reaches.

    Of a step: the FLOPs of its matrix products, and the bytes it allocates beside its arguments and results. The share of
    the rate of a matrix product, timed in turns with the steps, is what a step reaches of the hardware; see `floor`.

    Args:
      works: the rivals' `scanned_epoch`s, where they are made already.
    """
    works = works or {name: scanned_epoch(rival, steps) for name, rival in rivals.items()}
    times, rate = floor.alternate(works, rounds)
    rows = {}
    for name, rival in rivals.items():
        memory = _memory(rival)
        row = timing.summarise(times[name], per=steps) | memory
        rows[name] = floor.against(row, floor.of_step(rival), rate, memory["passed_bytes"])
    return rows, rate


def ratios(row: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """What `row` costs over what the other does."""
    return {key: row[key] / other[key] for key in COMPARED}


def scan_against_loop(steps: int, rounds: int) -> dict[str, Any]:
    """The same LoRA steps as one `lax.scan`, and as a loop over jitted steps on batches gathered on the device."""
    rival = setting.lora()
    times, rate = floor.alternate({"scan": scanned_epoch(rival, steps), "loop": loop(rival, steps)}, rounds)
    operations = floor.of_step(rival)
    rows = {
        name: floor.against(timing.summarise(values, per=steps), operations, rate) for name, values in times.items()
    }
    return {"rows": rows, "ratio": {"loop / scan": rows["loop"]["median_ms"] / rows["scan"]["median_ms"]}}


def scanned_epoch(rival: setting.Rival, steps: int):
    """The epoch as one program, to be called again and again; each call goes on training and returns the losses [S]."""
    run = training.make_epoch(rival.loss, rival.tx)
    order, states = rival.order(steps), [rival.state()]

    def work():
        states[0], (losses, _) = run(states[0], rival.frozen, rival.data, order)
        return losses

    return work


def loop(rival: setting.Rival, steps: int):
    """The same as a Python loop; returns the last loss."""
    step = training.make_train_step(rival.loss, rival.tx)
    gather = jax.jit(lambda data, rows: jax.tree.map(lambda leaf: leaf[rows], data))
    order, states = np.asarray(rival.order(steps)), [rival.state()]

    def work():
        for rows in order:
            states[0], (loss, _) = step(states[0], rival.frozen, gather(rival.data, rows))
        return loss

    return work


def _memory(rival: setting.Rival) -> dict[str, float]:
    """XLA's own analysis of the step's memory, what it is given and gives back included; the size of the optimiser's state."""
    batch = jax.tree.map(lambda leaf: leaf[: rival.batch], rival.data)
    state = rival.state()
    step = training.make_train_step(rival.loss, rival.tx)
    memory = step.lower(state, rival.frozen, batch).compile().memory_analysis()
    return {
        "optimizer_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state)),
        "temporary_bytes": memory.temp_size_in_bytes,
        "passed_bytes": memory.argument_size_in_bytes + memory.output_size_in_bytes,
    }
