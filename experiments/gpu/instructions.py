"""S4 at 25.8 M on this device, `tiny_lm.py --job=study --size=26M`: base, the study's LoRA, a tuned LoRA, full fine-tuning."""

import hashlib
import os
import sys
import time
from typing import Any

from experiments.common.recording import read_json, write_bytes
from experiments.common.statistics import wilson
from experiments.following import read
from experiments.gpu import children
from experiments.gpu.parts import INSTRUCTIONS
from experiments.gpu.record import Record

NAME, TITLE, ABOUT_S = INSTRUCTIONS, "25.8 M language model taught to follow instructions (S4), in bfloat16", 330
PRESETS = {"smoke": "smoke", "full": "quick"}  # of the study, by that of this command
QUICK_TO_COMPILE = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"  # most of its time goes to compiling
KEPT = ("table.txt", "what_trains.png", "kinds.png")


def measure(
    found: Record, *, preset: str, texts: tuple[str, ...], seconds: float
) -> tuple[dict[str, Any], float | None] | None:
    """(result, seconds) of the command, as `headline.measure`: None where it did not end in time, and the next call goes on with it.

    Args:
      texts: --corpus and --questions, as the command takes them.
      seconds: that it may take.

    Raises:
      UserError: when the command fails.
    """
    about, data = found.about, hashlib.sha256(str(texts).encode()).hexdigest()[:8]
    workdir = found.folder / NAME / f"{about['sources']}-{data}"
    is_resumed = workdir.is_dir() and any(workdir.glob("*/metrics.jsonl"))
    named = (
        "--job=study",
        "--size=26M",
        f"--accelerator={about['platform']}",
        f"--preset={PRESETS[preset]}",
        f"--workdir={workdir}",
    )
    start = time.monotonic()
    flags = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {QUICK_TO_COMPILE}"} if about["platform"] == "gpu" else {}
    if not children.command("tiny_lm.py", [*named, *texts], seconds, **flags):
        print(f"{NAME} was stopped: its time is up; the same command goes on with it.", file=sys.stderr, flush=True)
        return None
    (path,) = workdir.glob("following-*/summary.json")
    for name in KEPT:
        write_bytes(found.folder / f"{NAME}_{name}", (path.parent / name).read_bytes())
    summary = read_json(path)
    taken = None if is_resumed else time.monotonic() - start
    return {"accuracies": _accuracies(summary), "data": summary["data"]}, taken


def _accuracies(summary: dict[str, Any]) -> dict[str, Any]:
    """Of each arm and end, which of the scored held-out items its first run has right, with an interval over items."""
    found = {}
    for row in summary["rows"]:
        if "right" in row:
            right = read.right(summary, row)[0] > 0.5
            name = f"{row['arm']}, {row['name']}, {row['steps']:,} updates"
            found[name] = wilson(int(right.sum()), len(right)) | {"learning_rate": row.get("rate") or 0.0}
    return found
