"""A LoRA step of BERT-tiny against a full fine-tuning step, and what computing the last layer for one token saves."""

from typing import Any

from experiments.benchmarks import bert_setting, steps

WHOLE = "whole last layer"
SAVED = ("median_ms", "flops", "temporary_bytes")


def lora_against_full(count: int, rounds: int) -> dict[str, Any]:
    """As `steps.lora_against_full`.

    XLA counts fewer FLOPs than a textbook would: our classifier computes the last layer for the first token alone. So
    both kinds of step are also measured with the whole of it.
    """
    ways = {"LoRA": bert_setting.lora, "full": bert_setting.full}
    rivals = {name: way() for name, way in ways.items()}
    rivals |= {f"{name}, {WHOLE}": way(bert_setting.WholeLastLayer) for name, way in ways.items()}
    rows, rate = steps.measured(rivals, count, rounds)
    ratio = steps.ratios(rows["LoRA"], rows["full"])
    whole = steps.ratios(rows[f"LoRA, {WHOLE}"], rows[f"full, {WHOLE}"])
    ratio |= {f"{key}, {WHOLE}": whole[key] for key in SAVED}
    for name in ways:
        dearer = steps.ratios(rows[f"{name}, {WHOLE}"], rows[name])
        ratio |= {f"{key}, {name}, {WHOLE} / first token only": dearer[key] for key in SAVED}
    return {"rows": rows, "ratio": ratio, "matmul_gflops": rate.flops / 1e9}
