"""A LoRA step against a full fine-tuning step, and a scanned epoch against a Python loop of jitted steps."""

from typing import Any

import jax
import numpy as np

from experiments.benchmarks import flops, setting, timing
from lora_jax import training

PRODUCT = "matrix product"
COMPARED = ("median_ms", "flops", "optimizer_bytes", "temporary_bytes")


def lora_against_full(steps: int, rounds: int) -> dict[str, Any]:
    """See `measured`."""
    rows, rate = measured({"LoRA": setting.lora(), "full": setting.full()}, steps, rounds)
    return {"rows": rows, "ratio": ratios(rows["LoRA"], rows["full"]), "matmul_gflops": rate / 1e9}


def measured(rivals: dict[str, setting.Rival], steps: int, rounds: int) -> tuple[dict[str, Any], float]:
    """Each rival's time per step in a scanned epoch, what a step costs, and FLOP/s of a matrix product.

    Of a step: the FLOPs of its matrix products, and the bytes it allocates beside its arguments and results. The share of
    the rate of a matrix product, timed in turns with the steps, is what a step reaches of the hardware. The floor is the time of
    the FLOPs at this rate.
    """
    product, operations = timing.matmul()
    works = {name: scanned_epoch(rival, steps) for name, rival in rivals.items()}
    times = timing.alternate(works | {PRODUCT: product}, rounds)
    rate = operations / float(np.median(times[PRODUCT]))
    rows = {}
    for name, rival in rivals.items():
        row = timing.summarise(times[name], per=steps) | _cost(rival)
        per_second = row["flops"] / row["median_ms"] * 1e3
        rows[name] = row | {
            "gflops_per_s": per_second / 1e9,
            "share_of_matmul_rate": per_second / rate,
            "times_the_floor": rate / per_second,
        }
    return rows, rate


def ratios(row: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """What `row` costs over what the other does."""
    return {key: row[key] / other[key] for key in COMPARED}


def scan_against_loop(steps: int, rounds: int) -> dict[str, Any]:
    """The same LoRA steps as one `lax.scan`, and as a loop over jitted steps on batches gathered on the device."""
    rival = setting.lora()
    times = timing.alternate({"scan": scanned_epoch(rival, steps), "loop": loop(rival, steps)}, rounds)
    rows = {name: timing.summarise(values, per=steps) for name, values in times.items()}
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


def _cost(rival: setting.Rival) -> dict[str, float]:
    """FLOPs of the step's products; XLA's own analysis of its memory; the size of the optimiser's state."""
    batch = jax.tree.map(lambda leaf: leaf[: rival.batch], rival.data)
    state = rival.state()
    step = training.make_train_step(rival.loss, rival.tx)
    memory = step.lower(state, rival.frozen, batch).compile().memory_analysis()
    return {
        "flops": flops.of_products(training.make_step(rival.loss, rival.tx), state, rival.frozen, batch),
        "optimizer_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state)),
        "temporary_bytes": memory.temp_size_in_bytes,
    }
