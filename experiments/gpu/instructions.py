"""S4 at 24 M on this device, `tiny_lm.py --job=study --size=26M`: base, the study's LoRA, a tuned LoRA, full fine-tuning."""

import os
from typing import Any

from experiments.common.recording import read_json, write_bytes
from experiments.common.statistics import wilson
from experiments.following import read
from experiments.gpu import entries
from experiments.gpu.entries import Asked, Measured
from experiments.gpu.parts import INSTRUCTIONS
from experiments.gpu.record import Record

NAME, TITLE, ABOUT_S = INSTRUCTIONS, "24 M language model taught to follow instructions (S4), in bfloat16", 330
LEAST_S, SHARE = 60.0, 1.0  # it comes last, and takes what is left
PRESETS = {"smoke": "smoke", "full": "quick"}  # of the study, by that of this command
QUICK_TO_COMPILE = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"  # most of its time goes to compiling
KEPT = ("table.txt", "what_trains.png", "kinds.png")


def measure(found: Record, asked: Asked, seconds: float) -> Measured | None:
    """As `headline.measure`. Raises UserError when the command fails."""
    is_gpu = found.about["platform"] == "gpu"
    flags = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {QUICK_TO_COMPILE}"} if is_gpu else {}
    named = ("--job=study", "--size=26M", f"--preset={PRESETS[asked.preset]}")
    ran = entries.run(found, NAME, "tiny_lm.py", named, asked.texts, seconds, **flags)
    if ran is None:
        return None
    (path,) = ran.workdir.glob("following-*/summary.json")
    for name in KEPT:
        write_bytes(found.folder / f"{NAME}_{name}", (path.parent / name).read_bytes())
    summary = read_json(path)
    return {"accuracies": _accuracies(summary), "data": summary["data"]}, ran.seconds


def _accuracies(summary: dict[str, Any]) -> dict[str, Any]:
    """Of each arm and end, which of the scored held-out items its first run has right, with an interval over items."""
    found = {}
    for row in summary["rows"]:
        if "right" in row:
            right = read.right(summary, row)[0] > 0.5
            name = f"{row['arm']}, {row['name']}, {row['steps']:,} updates"
            found[name] = wilson(int(right.sum()), len(right)) | {"learning_rate": row.get("rate") or 0.0}
    return found
