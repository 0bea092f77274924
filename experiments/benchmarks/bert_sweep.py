"""Members of a sweep over BERT-tiny, together (`vmap`) or one after another inside the program (`sequential`)."""

from typing import Any

import lora_jax
from experiments.benchmarks import bert_setting, floor, setting, sweeps, timing
from lora_jax import sweep

MEMBERS, TOKENS = 6, 16  # 16: the middle of SST-2's lengths
STRATEGIES = ("vmap", "sequential")


def strategies(steps: int, rounds: int) -> dict[str, Any]:
    """Time per member step, each member on its own batches, as seeds are, or all on the same, as rates of a seed are.

    This decides the default for transformers on one device; a device per core is another matter (docs/decisions/sweeps.md). The two
    kinds of batches differ: on common ones `vmap` computes once for all members what comes before the first adapter.
    """
    kinds = {"own batches": (MEMBERS, steps, bert_setting.BATCH), "common batches": (steps, bert_setting.BATCH)}
    made = {f"{name}, {kind}": members(name, shape) for kind, shape in kinds.items() for name in STRATEGIES}
    times, rate = floor.alternate({name: way.work for name, way in made.items()}, rounds)
    per = MEMBERS * steps
    rows = {
        name: floor.against(timing.summarise(times[name], per=per), way.operations() / per, rate) | {"members": MEMBERS}
        for name, way in made.items()
    }
    ratio = {
        f"vmap / sequential, {kind}": rows[f"vmap, {kind}"]["median_ms"] / rows[f"sequential, {kind}"]["median_ms"]
        for kind in kinds
    }
    return {"rows": rows, "ratio": ratio}


def members(strategy: str, order: tuple[int, ...], count: int = MEMBERS) -> sweeps.Way:
    """Seeds at one rank and rate, each with its own classifier to train; see `sweeps.training_of`.

    Args:
      order: shape of the batches' indices, [S, B] or [M, S, B].
      count: of the members, M.
    """
    model, shared = bert_setting.wrapped(), bert_setting.base()
    chosen = sweep.grid(ranks=(bert_setting.RANK,), learning_rates=(bert_setting.RATE,), seeds=range(count))
    head = {bert_setting.HEAD: shared.pop(bert_setting.HEAD)}
    adapters = sweep.init_adapters(model, chosen, bert_setting.example())
    stacked = lora_jax.combine(adapters, sweep.broadcast(head, count))
    return sweeps.training_of(
        sweep.Sweep(bert_setting.loss(model), bert_setting.optimizer, strategy),
        chosen,
        stacked,
        bert_setting.HEAD,
        shared=shared,
        data=bert_setting.data(TOKENS),
        order=setting.order(order, bert_setting.EXAMPLES),
    )
