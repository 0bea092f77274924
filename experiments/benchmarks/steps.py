"""A LoRA step against a full fine-tuning step, and a scanned epoch against a Python loop of jitted steps."""

from typing import Any

import jax
import numpy as np

from experiments.benchmarks import setting, timing
from lora_jax import training


def lora_against_full(steps: int, rounds: int) -> dict[str, Any]:
    """Time per step in a scanned epoch, XLA's FLOPs of a step, bytes of optimiser state."""
    rivals = {"LoRA": setting.lora(), "full": setting.full()}
    times = timing.alternate({name: scanned_epoch(rival, steps) for name, rival in rivals.items()}, rounds)
    rate = timing.matmul_rate()
    rows = {}
    for name, rival in rivals.items():
        flops = _step_flops(rival)
        row = timing.summarise(times[name], per=steps)
        rows[name] = row | {
            "flops": flops,
            "optimizer_bytes": _bytes(rival.tx.init(rival.trainable)),
            "times_the_floor": row["median_ms"] / (flops / rate * 1e3),
        }
    ratios = {key: rows["LoRA"][key] / rows["full"][key] for key in ("median_ms", "flops", "optimizer_bytes")}
    return {"rows": rows, "ratio": ratios, "matmul_gflops": rate / 1e9}


def scan_against_loop(steps: int, rounds: int) -> dict[str, Any]:
    """The same LoRA steps as one `lax.scan`, and as a loop over jitted steps on batches gathered on the device."""
    rival = setting.lora()
    times = timing.alternate({"scan": scanned_epoch(rival, steps), "loop": _loop(rival, steps)}, rounds)
    rows = {name: timing.summarise(values, per=steps) for name, values in times.items()}
    return {"rows": rows, "ratio": {"loop / scan": rows["loop"]["median_ms"] / rows["scan"]["median_ms"]}}


def scanned_epoch(rival: setting.Rival, steps: int):
    run = training.make_epoch(rival.loss, rival.tx)
    data, order, states = setting.data(), setting.order(steps), [rival.state()]

    def work():
        states[0], (losses, _) = run(states[0], rival.frozen, data, order)
        return losses

    return work


def _loop(rival: setting.Rival, steps: int):
    step = training.make_train_step(rival.loss, rival.tx)
    gather = jax.jit(lambda data, rows: jax.tree.map(lambda leaf: leaf[rows], data))
    data, order, states = setting.data(), np.asarray(setting.order(steps)), [rival.state()]

    def work():
        for rows in order:
            states[0], (loss, _) = step(states[0], rival.frozen, gather(data, rows))
        return loss

    return work


def _step_flops(rival: setting.Rival) -> float:
    """XLA's own count for the compiled step."""
    batch = jax.tree.map(lambda leaf: leaf[: setting.BATCH], setting.data())
    step = jax.jit(training.make_step(rival.loss, rival.tx))
    return float(step.lower(rival.state(), rival.frozen, batch).compile().cost_analysis()["flops"])


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
