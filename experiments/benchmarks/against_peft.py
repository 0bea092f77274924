"""Our scanned LoRA epoch against PyTorch + PEFT on the same machine, in turns."""

import json
import pathlib
import subprocess
import sys
from typing import Any

from experiments.benchmarks import setting, steps, timing
from experiments.common.errors import UserError

WORKER = pathlib.Path(__file__).with_name("peft_steps.py")
ROUNDS_A_TURN = 3


def is_installed(python: str) -> bool:
    """Whether that interpreter has torch and peft. Raises UserError where there is no such interpreter."""
    try:
        return not subprocess.run([python, "-c", "import torch, peft"], capture_output=True).returncode
    except OSError as error:
        raise UserError(
            f"--peft_python={python} cannot be run ({error.strerror}); name a Python interpreter."
        ) from error


def ours_against_peft(python: str, step_count: int, turns: int) -> dict[str, Any] | None:
    """Steps per second of both; None, and a line on stderr, where PEFT's side fails."""
    ours, theirs, about = [], [], {}
    work = steps.scanned_epoch(setting.lora(), step_count)
    timing.seconds(work)
    for _ in range(turns):
        ours += [timing.seconds(work) for _ in range(ROUNDS_A_TURN)]
        command = [python, str(WORKER), str(step_count), str(ROUNDS_A_TURN)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"PEFT fails: {(done.stderr.strip().splitlines() or ['no message'])[-1]}", file=sys.stderr)
            return None
        about = json.loads(done.stdout.splitlines()[-1])
        theirs += about["seconds"]
    rows = {"lora_jax": timing.summarise(ours, per=step_count), "PEFT": timing.summarise(theirs, per=step_count)}
    versions = {name: about[name] for name in ("torch", "peft", "threads", "trainable")}
    return {
        "rows": rows,
        "ratio": {"PEFT / lora_jax": rows["PEFT"]["median_ms"] / rows["lora_jax"]["median_ms"]},
        **versions,
    }
