"""What was measured, as text."""

from collections.abc import Callable, Mapping
from typing import Any

from experiments.benchmarks import pairs, report
from experiments.benchmarks.pairs import Pair
from experiments.common.statistics import text
from experiments.gpu import headline, instructions, parts

TITLES = {
    headline.NAME: headline.TITLE,
    **{name: part.title for name, part in parts.PARTS.items()},
    instructions.NAME: instructions.TITLE,
}
PAIRS: dict[str, Callable[[Mapping[str, Any]], list[Pair]]] = {
    "lm26": lambda result: [*pairs.against_full(result), Pair("LoRA, base in float32", "LoRA")],
    "smollm2": lambda result: [*pairs.against_full(result), Pair("LoRA, attention by XLA", "LoRA")],
    "attention": lambda result: _attention(result["rows"]),
    "lm26_peft": pairs.peft(),
    "smollm2_peft": pairs.peft(),
    **{name: pairs.PAIRS[name] for name in ("sweep", "many_adapters", "mixed_batch", "bert_peft")},
}
SMOKE = "A smoke test: it shows that every part runs, and says nothing about speed."


def table(about: dict[str, Any], found: dict[str, Any]) -> str:
    """Of each part its rows, ratios and checks, or why it is not there."""
    lines = [f"{about['device_kind']}, {about['devices']} device(s)", *report.LEGEND.split("\n")]
    lines += [SMOKE] if about["preset"] == "smoke" else []
    for name, title in TITLES.items():
        lines += ["", *_part(name, title, found.get(name))]
    return "\n".join(lines)


def _attention(rows: pairs.Rows) -> list[Pair]:
    """Each other implementation against ours, at each length."""
    at = [name.rpartition(", ")[0] for name in rows if name.endswith(", lora_jax")]
    return [Pair(f"{length}, {peer}", f"{length}, lora_jax") for length in at for peer in ("XLA", "cuDNN")]


def _part(name: str, title: str, part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return [title, "  not measured yet"]
    if "failed" in part:
        return [title, f"  not measured: {part['failed']}"]
    result = {"rows": {}, "ratio": {}, **part["result"]}
    said = [title, *report.rows(result["rows"])]
    if found := pairs.there(PAIRS.get(name, lambda result: [])(result), result["rows"]):
        said += report.part(result, found)
    said += [f"  {name}: {_accuracy(row)}" for name, row in result.get("accuracies", {}).items()]
    said += [_difference(name, row) for name, row in result.get("apart", {}).items()]
    said += [_check(name, found) for name, found in result.get("checks", {}).items()]
    said += [f"  {name}: not run here: {why}" for name, why in result.get("not_run", {}).items()]
    said += [f"  {key}: {result[key]}" for key in ("agreement", "torch", "peft", "peak_bytes") if key in result]
    took = "" if part["seconds"] is None else f"{part['seconds']:.0f} s, "
    return [*said, f"  ({took}jax {part['packages']['jax']}, commit {part['commit']}, {part['measured_at']})"]


def _accuracy(row: dict[str, Any]) -> str:
    return f"{text(row, digits=2, factor=100)} %, n = {row['n']}, learning rate {row['learning_rate']:g}"


def _difference(name: str, row: dict[str, float]) -> str:
    return f"  {name}, minus the CPU's: {row['points']:+.2f} points, {row['standard_errors']:+.1f} standard errors"


def _check(name: str, found: dict[str, Any]) -> str:
    verdict = "holds" if found["holds"] else "DOES NOT HOLD"
    value = found["value"] if isinstance(found["value"], str) else f"{found['value']:.2g}"
    return f"  {name}: {value}, at most {found['bar']:g}: {verdict}"
