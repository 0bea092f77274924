"""The 26 M language model in bfloat16: a LoRA step against a full step in time and memory, and against PEFT on the same device."""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import against_peft as peft
from experiments.benchmarks import floor, lm_setting, setting, steps
from experiments.gpu.parts import Size
from lora_jax.leaves import is_adapter_leaf
from lora_jax.models.causal_lm import PRESETS, CausalLM, CausalLMConfig
from lora_jax.tree import flat, nested

ROWS, TOKENS = 32, 512  # of a batch
SMOKE = (CausalLMConfig(1600, 64, 176, 2, 2, 1, 64), 2, 64)


def lora_against_full(size: Size) -> dict[str, Any]:
    """Three ways: LoRA over a base kept in bfloat16, LoRA over one kept in float32, and full fine-tuning, whose weights are float32.

    `peak_bytes` is what the device held at most during that way's first epoch, without what others held already. It is known only where the
    device's peak rose then; a CPU does not tell.
    """
    ways = {
        "LoRA": lambda: in_bfloat16(lora(size)),
        "LoRA, base in float32": lambda: lora(size),
        "full": lambda: full(size),
    }
    if size.is_smoke:
        del ways["LoRA, base in float32"]
    rivals, works, peaks = {}, {}, {}
    for name, make in ways.items():
        held, peak = _memory()
        rivals[name] = make()
        works[name] = steps.scanned_epoch(rivals[name], size.steps)
        jax.block_until_ready(works[name]())
        after = _memory()[1]
        peaks[name] = {"peak_bytes": after - held} if after > peak else {}
    rows, rates = steps.measured(rivals, size.steps, size.rounds, works)
    rows = {name: row | peaks[name] for name, row in rows.items()}
    ratio = {f"LoRA / full, {key}": value for key, value in steps.ratios(rows["LoRA"], rows["full"]).items()}
    if peaks["LoRA"] and peaks["full"]:
        ratio["LoRA / full, peak_bytes"] = peaks["LoRA"]["peak_bytes"] / peaks["full"]["peak_bytes"]
    found = {
        "rows": rows,
        "ratio": ratio,
        "tokens_a_step": _of(size)[1] * _of(size)[2],
        "matmul_tflops": rates.flops / 1e12,
    }
    return found if rates.bytes is None else {**found, "copy_gb_per_s": rates.bytes / 1e9}


def _memory() -> tuple[int, int]:
    """Bytes that the device holds now, and has held at most; zeros where it does not tell."""
    told = jax.local_devices()[0].memory_stats() or {}
    return told.get("bytes_in_use", 0), told.get("peak_bytes_in_use", 0)


def against_peft(size: Size) -> dict[str, Any] | None:
    """LoRA over the base in bfloat16; None where PEFT is not installed or fails."""
    rival = in_bfloat16(lora(size))
    works = {"lora_jax": steps.scanned_epoch(rival, size.steps)}
    name = "lm26, smoke" if size.is_smoke else "lm26"
    return peft.in_turns(size.python, name, works, size.steps, 2, operations=floor.of_step(rival))


def _of(size: Size) -> tuple[CausalLMConfig, int, int]:
    return SMOKE if size.is_smoke else (PRESETS["26M"], ROWS, TOKENS)


def lora(size: Size) -> setting.Rival:
    """r = 8 on every linear layer; computed in bfloat16, parameters float32."""
    config, rows, tokens = _of(size)
    return lm_setting.lora(_data(config, rows, tokens), rows, CausalLM(config, dtype=jnp.bfloat16))


def full(size: Size) -> setting.Rival:
    """All of it; the same."""
    config, rows, tokens = _of(size)
    return lm_setting.full(rows, CausalLM(config, dtype=jnp.bfloat16), _data(config, rows, tokens))


def _data(config: CausalLMConfig, rows: int, tokens: int) -> dict[str, jax.Array]:
    return lm_setting.full_rows(tokens, rows=2 * rows, below=config.vocab_size)


def in_bfloat16(rival: setting.Rival) -> setting.Rival:
    """Its frozen base kept in bfloat16; what belongs to adapters stays float32."""
    kept = {
        path: leaf if is_adapter_leaf(path) else leaf.astype(jnp.bfloat16) for path, leaf in flat(rival.frozen).items()
    }
    return rival._replace(frozen=nested(kept))
