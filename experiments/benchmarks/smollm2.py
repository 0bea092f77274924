"""SmolLM2-135M against PyTorch + PEFT + transformers: a LoRA step of 8 rows of 128 tokens, greedy generation, and the memory of either process.

Weights are random: speed depends on neither them nor ids. r = 8 on the seven projections of each layer, AdamW, float32. The floor is the longer of
the products' time at the rate of a product, and, for generation, that of reading every weight once a token at the rate of reading.
"""

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax

from experiments.benchmarks import against_peft, floor, lm_setting, lm_steps, setting, steps, timing
from experiments.benchmarks.peft_steps import peak_rss_bytes
from experiments.common import draws, memory, tied
from lora_jax.models.causal_lm import CausalLM, CausalLMConfig

CONFIG = CausalLMConfig(49152, 576, 1536, 30, 9, 3, 8192, rope_theta=100_000.0)
BATCH, TOKENS, NEW_TOKENS = 8, 128, 64
PROMPTS = (1, 8)
REPOSITORY = pathlib.Path(__file__).parents[2]


def model() -> CausalLM:
    return CausalLM(CONFIG)


def lora() -> setting.Rival:
    """On rows of one document each, of which neither side is told."""
    data = lm_setting.full_rows(TOKENS, 2 * BATCH, CONFIG.vocab_size)
    del data["segments"]
    return lm_setting.lora(data, BATCH, model())


def step(python: str, turns: int) -> dict[str, Any] | None:
    """A LoRA step; both score all tokens of a row but its first. Raises ValueError where the two train different numbers of parameters."""
    rival = lora()
    works = {"lora_jax": steps.scanned_epoch(rival, 1)}
    found = against_peft.in_turns(python, "smollm2", works, 1, turns, operations=floor.of_step(rival))
    trainable = sum(leaf.size for leaf in jax.tree.leaves(rival.trainable))
    if found is not None and found["trainable"] != trainable:
        raise ValueError(f"PEFT trains {found['trainable']:,} parameters, and lora_jax {trainable:,}.")
    return _with_memory("smollm2", 1, found)


def generation(python: str, new_tokens: int, turns: int) -> dict[str, Any] | None:
    """Greedy generation by the base for one prompt and for 8, per token of all prompts."""
    weights = memory.bytes_of(jax.eval_shape(lambda: lm_setting.base(model())))

    def of(batch: int) -> dict[str, Any] | None:
        name = f"smollm2 generation, {batch}"
        works = {"lora_jax": lm_steps.generation(batch, new_tokens, model())}
        tokens = batch * new_tokens
        operations = lm_steps.flops_of_generation(batch, new_tokens, model()) / tokens
        read = weights / batch
        found = against_peft.in_turns(
            python, name, works, new_tokens, turns, operations=operations, moved=read, per=tokens
        )
        return _with_memory(name, new_tokens, found)

    return against_peft.per_batch(PROMPTS, of)


def _with_memory(name: str, count: int, found: dict[str, Any] | None) -> dict[str, Any] | None:
    """And what a process that does nothing else holds at most, on either side; where the system tells."""
    if found is None or "peak_rss_bytes" not in found:
        return found
    of = {"PEFT": found.pop("peak_rss_bytes"), "lora_jax": _alone(name, count)}
    rows = {way: row | {"peak_rss_bytes": of[way]} for way, row in found["rows"].items()}
    ratio = found["ratio"] | {"PEFT / lora_jax, peak_rss_bytes": of["PEFT"] / of["lora_jax"]}
    return {**found, "rows": rows, "ratio": ratio}


def _alone(name: str, count: int) -> int:
    command = tied.command([sys.executable, "-m", "experiments.benchmarks.smollm2", name, str(count)])
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["peak_rss_bytes"]


def work(name: str, count: int) -> Callable[[], Any]:
    """What is timed, as the worker of PEFT's side calls it."""
    if name == "smollm2":
        return steps.scanned_epoch(lora(), count)
    return lm_steps.generation(int(name.split(", ")[1]), count, model())


if __name__ == "__main__":  # as peft_steps.py: once to warm up, and as often as a turn has it
    draws.fuse_on_cpu()
    timed = work(sys.argv[1], int(sys.argv[2]))
    seconds = [timing.seconds(timed) for _ in range(1 + against_peft.ROUNDS_A_TURN)][1:]
    print(json.dumps({"seconds": seconds, "peak_rss_bytes": peak_rss_bytes()}))
