"""What following parameters costs before anything runs: tracing an adapted model beside its base, and finding its kernels.

The floor is the base's own trace. Compiled, the side path is product for product what one writes by hand (tests/products/test_cost.py).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import lora_jax
from experiments.benchmarks import bert_setting, lm_setting, timing
from lora_jax.models.bert import BertForSequenceClassification
from lora_jax.models.causal_lm import CausalLM

LAYERS = 30
NARROW = {"hidden_size": 32, "intermediate_size": 64}  # tracing does not depend on widths


def compared(rounds: int) -> dict[str, Any]:
    """Seconds per trace, caches cleared before each: forward, and the gradient of the adapters; and of `find`."""
    ids = jnp.arange(32).reshape(2, 16) % 7
    rows, ratio = {}, {}
    for name, base in {
        f"BERT, {LAYERS} layers unrolled": BertForSequenceClassification(
            dataclasses.replace(bert_setting.CONFIG, num_hidden_layers=LAYERS, **NARROW)
        ),
        f"causal LM, {LAYERS} layers scanned": CausalLM(
            dataclasses.replace(lm_setting.CONFIG, num_hidden_layers=LAYERS)
        ),
    }.items():
        times = timing.alternate({what: _cold(work) for what, work in _works(base, ids).items()}, rounds)
        found = {what: timing.summarise(values) for what, values in times.items()}
        least = found["base"]["median_ms"]
        rows |= {f"{name}: {what}": {**row, "times_the_floor": row["median_ms"] / least} for what, row in found.items()}
        ratio[f"{name}: LoRA / base, forward"] = found["LoRA"]["median_ms"] / least
    return {"rows": rows, "ratio": ratio}


def _works(base: nn.Module, ids: jax.Array) -> dict[str, Any]:
    model = lora_jax.LoRA(base, lora_jax.LoRAConfig(rank=8))
    base_params = jax.eval_shape(base.init, jax.random.key(0), ids)["params"]
    params = jax.eval_shape(lambda base: lora_jax.adapt(jax.random.key(0), base, model, ids), base_params)
    frozen, trainable = lora_jax.partition(params, lora_jax.trainable_mask(params))

    def loss(trainable, frozen):
        return jnp.sum(jnp.sin(model.apply({"params": lora_jax.combine(frozen, trainable)}, ids)))

    return {
        "base": lambda: jax.make_jaxpr(lambda p: base.apply({"params": p}, ids))(base_params),
        "LoRA": lambda: jax.make_jaxpr(lambda p: model.apply({"params": p}, ids))(params),
        "LoRA's gradient": lambda: jax.make_jaxpr(jax.grad(loss))(trainable, frozen),
        "find": lambda: lora_jax.products.find(lambda p: base.apply({"params": p}, ids), base_params),
    }


def _cold(work):
    """Without what an earlier trace left."""

    def run():
        jax.clear_caches()
        work()

    return run
