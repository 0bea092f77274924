"""The parts, the most valuable first. Each is `measure(size) -> {"rows": ..., "ratio": ..., "checks": ...}`, of which any may be missing.

`rows`: name -> what `benchmarks.timing.summarise` and `benchmarks.floor.against` say. `ratio`: name -> number. `checks`: name -> `exactness.check`.
To add one: a function in a module of this folder, a `Part` here, its seconds on a GPU as far as they are known.
"""

from collections.abc import Callable
from typing import Any, NamedTuple


class Size(NamedTuple):
    """How much a part does: steps of a call that is timed, timings of each rival, and whether it is only to be seen to work."""

    steps: int
    rounds: int
    is_smoke: bool
    python: str  # an interpreter with torch and peft, "" where there is none


SIZES = {"smoke": (1, 2, True), "full": (50, 10, False)}


def shrink() -> None:
    """Makes models smaller for a smoke test: on a CPU compiling them is what it costs."""
    import dataclasses

    from experiments.benchmarks import bert_setting, setting

    bert_setting.CONFIG = dataclasses.replace(bert_setting.CONFIG, vocab_size=100, num_hidden_layers=1)
    setting.HIDDEN = (32,)


class Part(NamedTuple):
    """`about_s`: seconds that it may take on a GPU; it is begun only where as many are left. `is_alone`: in a process of its own."""

    title: str
    about_s: int
    measure: Callable[[Size], dict[str, Any] | None]
    is_alone: bool = False


def _exactness(size: Size) -> dict[str, Any]:
    from experiments.gpu import exactness

    return exactness.measure(size)


def _exactness_bfloat16(size: Size) -> dict[str, Any]:
    from experiments.gpu import exactness

    return exactness.measure_bfloat16(size)


def _lm26(size: Size) -> dict[str, Any]:
    from experiments.gpu import decoder

    ways = (decoder.LORA, decoder.FULL) if size.is_smoke else (decoder.LORA, decoder.IN_FLOAT32, decoder.FULL)
    return decoder.lora_against_full(size, decoder.LM26[size.is_smoke], ways)


def _smollm2(size: Size) -> dict[str, Any]:
    from experiments.gpu import decoder

    return decoder.lora_against_full(
        size, decoder.SMOLLM2[size.is_smoke], (decoder.LORA, decoder.UNFUSED, decoder.FULL)
    )


# Times with compilation are left to the CPU: a GPU's compiler tries out products once a process, and whoever comes first pays.


def _sweep(size: Size) -> dict[str, Any]:
    from experiments.benchmarks import sweeps

    few = {"ranks": (2,), "seeds": 2} if size.is_smoke else {}
    return sweeps.one_program_against_serial(2 * size.steps, size.rounds, **few, afresh=False)


def _many_adapters(size: Size) -> dict[str, Any]:
    from experiments.benchmarks import many_adapters

    count = 2 if size.is_smoke else many_adapters.COUNT
    return many_adapters.trained(size.steps, size.rounds, count, afresh=False)


def _mixed_batch(size: Size) -> dict[str, Any]:
    from experiments.benchmarks import many_adapters

    return many_adapters.mixed_batch(size.steps, size.rounds)


def _attention(size: Size) -> dict[str, Any]:
    from experiments.gpu import attention

    return attention.compared(size)


def _lm26_peft(size: Size) -> dict[str, Any] | None:
    from experiments.gpu import decoder

    return decoder.against_peft(size, decoder.LM26[size.is_smoke])


def _smollm2_peft(size: Size) -> dict[str, Any] | None:
    from experiments.gpu import decoder

    return decoder.against_peft(size, decoder.SMOLLM2[size.is_smoke])


def _bert_peft(size: Size) -> dict[str, Any] | None:
    from experiments.benchmarks import against_peft

    return against_peft.bert(size.python, size.steps, turns=2)


PARTS = {
    "exactness": Part("exactness on the device, in float32", 100, _exactness),
    "lm26": Part("26 M language model in bfloat16: LoRA against full fine-tuning, per step", 85, _lm26, True),
    "smollm2": Part("SmolLM2-135M in bfloat16: LoRA against full fine-tuning, attention fused or not, per step", 130, _smollm2, True),
    "exactness_bfloat16": Part("exactness on the device, in bfloat16", 120, _exactness_bfloat16),
    "sweep": Part("30 members of an MLP: one program against one by one, per member step", 60, _sweep),
    "many_adapters": Part("BERT-tiny, 8 adapters: together against one after another, per member step", 50, _many_adapters),
    "mixed_batch": Part("BERT-tiny, 8 adapters in one batch of 32 sentences, per batch", 20, _mixed_batch),
    "attention": Part("causal attention in bfloat16, forward and backward: XLA against cuDNN, per call", 25, _attention),
    "lm26_peft": Part("26 M language model in bfloat16: LoRA training against PEFT, per step", 100, _lm26_peft),
    "smollm2_peft": Part("SmolLM2-135M in bfloat16: LoRA training against PEFT, per step", 120, _smollm2_peft),
    "bert_peft": Part("BERT-tiny: LoRA training against PEFT, per step", 60, _bert_peft),
}  # fmt: skip
NEED_PEFT = ("lm26_peft", "smollm2_peft", "bert_peft")
HEADLINE, INSTRUCTIONS = (
    "rank_sweep",
    "s4_26m",
)  # commands of their own, `headline.py` before these, `instructions.py` after them
NAMES = (HEADLINE, *PARTS, INSTRUCTIONS)
