"""Our scanned LoRA epoch against PyTorch + PEFT on the same machine, in turns."""

import json
import pathlib
import subprocess
from typing import Any

from experiments.benchmarks import setting, steps, timing

WORKER = pathlib.Path(__file__).with_name("peft_steps.py")
ROUNDS_A_TURN = 3
TIMEOUT_S = 300


def ours_against_peft(python: str, step_count: int, turns: int) -> dict[str, Any] | None:
    """Steps per second of both; None where that interpreter has no torch with peft."""
    if subprocess.run([python, "-c", "import torch, peft"], capture_output=True, timeout=TIMEOUT_S).returncode:
        return None
    ours, theirs, about = [], [], {}
    work = steps.scanned_epoch(setting.lora(), step_count)
    timing.seconds(work)
    for _ in range(turns):
        ours += [timing.seconds(work) for _ in range(ROUNDS_A_TURN)]
        command = [python, str(WORKER), str(step_count), str(ROUNDS_A_TURN)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
        about = json.loads(done.stdout.splitlines()[-1])
        theirs += about["seconds"]
    rows = {"lora_jax": timing.summarise(ours, per=step_count), "PEFT": timing.summarise(theirs, per=step_count)}
    versions = {name: about[name] for name in ("torch", "peft", "threads", "trainable")}
    return {
        "rows": rows,
        "ratio": {"PEFT / lora_jax": rows["PEFT"]["median_ms"] / rows["lora_jax"]["median_ms"]},
        **versions,
    }
