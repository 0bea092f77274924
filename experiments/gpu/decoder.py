"""Decoders in bfloat16, the study's of 26 M and SmolLM2-135M: a LoRA step against a full one in time and memory, and against PEFT."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.benchmarks import against_peft as peft
from experiments.benchmarks import floor, lm_setting, setting, smollm2, steps
from experiments.gpu.parts import Size
from lora_jax.leaves import is_adapter_leaf
from lora_jax.models import attention
from lora_jax.models.causal_lm import PRESETS, CausalLM, CausalLMConfig
from lora_jax.tree import flat, nested


class Subject(NamedTuple):
    """A decoder and its batch: rows of so many tokens, in one document each; what PEFT's worker calls it."""

    worker: str
    config: CausalLMConfig
    rows: int
    tokens: int

    def model(self) -> CausalLM:
        return CausalLM(self.config, dtype=jnp.bfloat16)

    def data(self) -> dict[str, jax.Array]:
        """PEFT's side is told of no documents either."""
        data = lm_setting.full_rows(self.tokens, 2 * self.rows, self.config.vocab_size)
        del data["segments"]
        return data

    def lora(self) -> setting.Rival:
        """r = 8 on every linear layer; computed in bfloat16, parameters float32."""
        return lm_setting.lora(self.data(), self.rows, self.model())

    def full(self) -> setting.Rival:
        """All of it; the same."""
        return lm_setting.full(self.rows, self.model(), self.data())


LM26 = {
    False: Subject("lm26", PRESETS["26M"], 32, 512),
    True: Subject("lm26, smoke", CausalLMConfig(1600, 64, 176, 2, 2, 1, 64), 2, 64),
}  # by whether it is a smoke test
SMOLLM2 = {
    False: Subject("smollm2, bfloat16", smollm2.CONFIG, 32, 512),
    True: Subject("smollm2, bfloat16, smoke", CausalLMConfig(1600, 96, 256, 2, 3, 1, 64), 2, 64),
}
LORA, IN_FLOAT32, UNFUSED, FULL = "LoRA", "LoRA, base in float32", "LoRA, attention by XLA", "full"
WAYS: dict[str, Callable[[Subject], setting.Rival]] = {
    LORA: lambda of: in_bfloat16(of.lora()),
    IN_FLOAT32: lambda of: of.lora(),
    UNFUSED: lambda of: unfused(in_bfloat16(of.lora())),
    FULL: lambda of: of.full(),
}


def lora_against_full(size: Size, subject: Subject, ways: tuple[str, ...]) -> dict[str, Any]:
    """Ways to train: LoRA over a base kept in bfloat16, where attention is cuDNN's fused one, or XLA's, LoRA over one kept in float32, and full
    fine-tuning, whose weights are float32.

    `peak_bytes` is what the device held at most during that way's first epoch, without what others held already. It is known only where the
    device's peak rose then; a CPU does not tell.
    """
    rivals, works, peaks = {}, {}, {}
    for name in ways:
        held, peak = _memory()
        rivals[name] = WAYS[name](subject)
        works[name] = steps.scanned_epoch(rivals[name], size.steps)
        jax.block_until_ready(works[name]())
        after = _memory()[1]
        peaks[name] = {"peak_bytes": after - held} if after > peak else {}
    rows, rates = steps.measured(rivals, size.steps, size.rounds, works)
    rows = with_tokens(subject, {name: row | peaks[name] for name, row in rows.items()})
    ratio = {f"LoRA / full, {key}": value for key, value in steps.ratios(rows[LORA], rows[FULL]).items()}
    if UNFUSED in rows:
        ratio["attention by XLA / fused, median_ms"] = rows[UNFUSED]["median_ms"] / rows[LORA]["median_ms"]
    if peaks[LORA] and peaks[FULL]:
        ratio["LoRA / full, peak_bytes"] = peaks[LORA]["peak_bytes"] / peaks[FULL]["peak_bytes"]
    found = {
        "rows": rows,
        "ratio": ratio,
        "tokens_a_step": subject.rows * subject.tokens,
        "matmul_tflops": rates.flops / 1e12,
    }
    return found if rates.bytes is None else {**found, "copy_gb_per_s": rates.bytes / 1e9}


def with_tokens(subject: Subject, rows: dict[str, Any]) -> dict[str, Any]:
    """The rows with the tokens that each trains on in a second."""
    tokens = subject.rows * subject.tokens
    return {name: row | {"tokens_per_s": tokens / row["median_ms"] * 1e3} for name, row in rows.items()}


def _memory() -> tuple[int, int]:
    """Bytes that the device holds now, and has held at most; zeros where it does not tell."""
    told = jax.local_devices()[0].memory_stats() or {}
    return told.get("bytes_in_use", 0), told.get("peak_bytes_in_use", 0)


def against_peft(size: Size, subject: Subject) -> dict[str, Any] | None:
    """LoRA over the base in bfloat16; None where PEFT is not installed or fails."""
    rival = in_bfloat16(subject.lora())
    works = {"lora_jax": steps.scanned_epoch(rival, size.steps)}
    found = peft.in_turns(size.python, subject.worker, works, size.steps, 2, operations=floor.of_step(rival))
    return None if found is None else {**found, "rows": with_tokens(subject, found["rows"])}


def in_bfloat16(rival: setting.Rival) -> setting.Rival:
    """Its frozen base kept in bfloat16; what belongs to adapters stays float32."""
    kept = {
        path: leaf if is_adapter_leaf(path) else leaf.astype(jnp.bfloat16) for path, leaf in flat(rival.frozen).items()
    }
    return rival._replace(frozen=nested(kept))


def unfused(rival: setting.Rival) -> setting.Rival:
    """Its attention by XLA, wherever its loss is traced."""

    def loss(*of):
        with _no_fused_attention():
            return rival.loss(*of)

    return rival._replace(loss=loss)


@contextlib.contextmanager
def _no_fused_attention() -> Iterator[None]:
    widest, attention.WIDEST = attention.WIDEST, 0
    try:
        yield
    finally:
        attention.WIDEST = widest
