"""BERT-tiny: what DoRA, PiSSA's frozen start and a quantised base cost beside plain LoRA."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

import lora_jax
from experiments.benchmarks import bert_setting, setting, steps
from lora_jax.tree import flat

KINDS = {"LoRA": {}, "DoRA": {"dora": True}, "PiSSA": {"init": "pissa"}}
FORMATS = ("nf4", "int8")


def compared(count: int, rounds: int) -> dict[str, Any]:
    """As `steps.lora_against_full`, each over LoRA; and, of a quantised base, its bytes and its error."""
    rivals = {name: _rival(bert_setting.base(), fields) for name, fields in KINDS.items()}
    small = {method: _quantised(method) for method in FORMATS}
    rivals |= {f"LoRA over {method}": _rival(base, {}) for method, base in small.items()}
    rows, rate = steps.measured(rivals, count, rounds)
    ratio = {}
    for name in rivals.keys() - {"LoRA"}:
        ratio |= {f"{key}, {name} / LoRA": value for key, value in steps.ratios(rows[name], rows["LoRA"]).items()}
    whole = _kernels(bert_setting.base())
    for method, base in small.items():
        kernels = _kernels(base)
        ratio[f"bytes of the kernels, {method} / float32"] = _bytes(kernels) / _bytes(whole)
        ratio[f"relative error of the kernels, {method}"] = _error(kernels, whole)
    return {"rows": rows, "ratio": dict(sorted(ratio.items())), "matmul_gflops": rate.flops / 1e9}


def _rival(base: dict, fields: dict[str, Any]) -> setting.Rival:
    plain = bert_setting.wrapped()
    rank = min(bert_setting.RANK, bert_setting.CONFIG.hidden_size)  # PiSSA has no more directions than the kernel
    model = plain.with_config(dataclasses.replace(plain.config, rank=rank, **fields))
    params = lora_jax.adapt(jax.random.key(4), base, model, bert_setting.example())
    mask = lora_jax.trainable_mask(params, train=bert_setting.HEAD)
    return setting.rival(
        bert_setting.loss(model), bert_setting.optimizer(), params, mask, bert_setting.data(), bert_setting.BATCH
    )


def _quantised(method: str) -> dict:
    layout = lora_jax.layout(bert_setting.wrapped().base_module, bert_setting.example())
    return lora_jax.quantised.quantise(bert_setting.base(), layout, method=method, excludes=bert_setting.HEAD)


def _kernels(base: dict) -> dict[str, Any]:
    """What is quantised."""
    return {
        path: leaf
        for path, leaf in flat(base).items()
        if path.endswith("kernel") and not path.startswith(bert_setting.HEAD)
    }


def _bytes(leaves: dict[str, Any]) -> int:
    return sum(leaf.nbytes for leaf in leaves.values())


def _error(kernels: dict[str, Any], whole: dict[str, Any]) -> float:
    """Root mean square, over that of the kernels."""
    wrong = sum(float(jnp.sum((leaf.unbox() - whole[path]) ** 2)) for path, leaf in kernels.items())
    return (wrong / sum(float(jnp.sum(leaf**2)) for leaf in whole.values())) ** 0.5
