"""BERT-tiny and eight adapters: a mixed batch against one adapter and against eight calls; training together against one after another."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lora_jax
from experiments.benchmarks import bert_setting, bert_sweep, floor, flops, setting, sweeps, timing
from lora_jax import bank, sweep, training

COUNT, TOKENS = 8, 16


def mixed_batch(calls: int, rounds: int) -> dict[str, Any]:
    """Inference on 32 sentences of 64 tokens, four for each adapter."""
    model, base = bert_setting.wrapped(), bert_setting.base()
    params = setting.adapted(model, base, bert_setting.example())
    adapters = [_moved(lora_jax.adapter_of(params), seed) for seed in range(COUNT)]
    stacked = bank.stack(base, adapters)
    x = bert_setting.data()["x"][: bert_setting.BATCH]
    ids = jnp.arange(bert_setting.BATCH) % COUNT
    mixed = jax.jit(lambda stacked, ids, x: bank.apply(model, base, stacked, ids, x))
    one = jax.jit(lambda adapter, x: model.apply({"params": lora_jax.combine(base, adapter)}, x))
    groups = [x[np.arange(bert_setting.BATCH) % COUNT == i] for i in range(COUNT)]
    works = {
        "one adapter": _repeated(calls, lambda: one(adapters[0], x)),
        "mixed": _repeated(calls, lambda: mixed(stacked, ids, x)),
        "eight calls": _repeated(
            calls, lambda: [one(adapter, group) for adapter, group in zip(adapters, groups, strict=True)]
        ),
    }
    times, rate = floor.alternate(works, rounds)
    operations = flops.of_products(mixed, stacked, ids, x)
    rows = {
        name: floor.against(timing.summarise(values, per=calls), operations, rate) for name, values in times.items()
    }
    ratio = {
        "mixed / one adapter": rows["mixed"]["median_ms"] / rows["one adapter"]["median_ms"],
        "eight calls / mixed": rows["eight calls"]["median_ms"] / rows["mixed"]["median_ms"],
    }
    return {"rows": rows, "ratio": ratio}


def _moved(adapter: dict, seed: int) -> dict:
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(random.normal(size=leaf.shape) / 10, leaf.dtype), adapter)


def _repeated(calls: int, work):
    def several():
        for _ in range(calls):
            result = work()
        return result

    return several


def trained(steps: int, rounds: int, count: int | None = None, *, afresh: bool = True) -> dict[str, Any]:
    """Eight adapters with heads, or `count`, each on its own 32 x 16 tokens a step: in one program, and one after another in one that they share."""
    count = count or COUNT
    ways = {
        "one after another": lambda: _serial(count, steps),
        **{
            name: lambda name=name: bert_sweep.members(name, (count, steps, bert_setting.BATCH), count)
            for name in bert_sweep.STRATEGIES
        },
    }
    return sweeps.compared(ways, count * steps, rounds, afresh=afresh)


def _serial(count: int, steps: int) -> sweeps.Way:
    """Runs of one compiled epoch, as a careful user has them."""
    model, shared = bert_setting.wrapped(), bert_setting.base()
    data, orders = bert_setting.data(TOKENS), setting.order((count, steps, bert_setting.BATCH), bert_setting.EXAMPLES)
    draw = jax.jit(lambda key, params: lora_jax.adapt(key, params, model, bert_setting.example()))
    runs: list[list] = []
    for member in sweep.grid(ranks=(bert_setting.RANK,), learning_rates=(bert_setting.RATE,), seeds=range(count)):
        params = draw(jax.random.key(member.seed), shared)
        mask = lora_jax.trainable_mask(params, train=bert_setting.HEAD)
        frozen, trainable = lora_jax.partition(params, mask)
        tx = lora_jax.lora_optimizer(bert_setting.optimizer(), mask)
        epoch = runs[0][0] if runs else training.make_epoch(bert_setting.loss(model), tx)
        runs.append([epoch, training.init_state(trainable, tx, jax.random.key(member.seed)), frozen])

    def work():
        for run, order in zip(runs, orders, strict=True):
            run[1], _ = run[0](run[1], run[2], data, order)
        return [run[1].trainable for run in runs]

    return sweeps.Way(work, lambda: count * steps * floor.of_step(bert_setting.lora(), data))
