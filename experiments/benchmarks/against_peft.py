"""Our LoRA training against PyTorch + PEFT on the same machine, in turns."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from experiments.benchmarks import bert_setting, setting, steps, timing
from experiments.common.errors import UserError

WORKER = pathlib.Path(__file__).with_name("peft_steps.py")
ROUNDS_A_TURN = 3
ABOUT = ("torch", "peft", "transformers", "threads", "trainable")


def is_installed(python: str) -> bool:
    """Whether that interpreter has torch and peft. Raises UserError where there is no such interpreter."""
    try:
        return not subprocess.run([python, "-c", "import torch, peft"], capture_output=True).returncode
    except OSError as error:
        raise UserError(
            f"--peft_python={python} cannot be run ({error.strerror}); name a Python interpreter."
        ) from error


def mlp(python: str, step_count: int, turns: int) -> dict[str, Any] | None:
    """S3's MLP."""
    return in_turns(python, "mlp", {"lora_jax": steps.scanned_epoch(setting.lora(), step_count)}, step_count, turns)


def bert(python: str, step_count: int, turns: int) -> dict[str, Any] | None:
    """BERT-tiny, as a scanned epoch and as a loop of jitted steps, which is the shape of PyTorch's own loop."""
    rival = bert_setting.lora()
    works = {"lora_jax": steps.scanned_epoch(rival, step_count), "lora_jax, loop": steps.loop(rival, step_count)}
    return in_turns(python, "bert", works, step_count, turns)


def in_turns(
    python: str, name: str, works: dict[str, Callable[[], Any]], step_count: int, turns: int
) -> dict[str, Any] | None:
    """Time per step of ours and of PEFT's; None, and a line on stderr, where PEFT's side fails.

    Args:
      name: the setting, as the worker calls it.
      works: our ways to do as many steps.
    """
    times: dict[str, list[float]] = {way: [] for way in (*works, "PEFT")}
    about: dict[str, Any] = {}
    for work in works.values():
        timing.seconds(work)
    for _ in range(turns):
        for way, work in works.items():
            times[way] += [timing.seconds(work) for _ in range(ROUNDS_A_TURN)]
        command = [python, str(WORKER), name, str(step_count), str(ROUNDS_A_TURN)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"PEFT fails: {(done.stderr.strip().splitlines() or ['no message'])[-1]}", file=sys.stderr)
            return None
        about = json.loads(done.stdout.splitlines()[-1])
        times["PEFT"] += about["seconds"]
    rows = {way: timing.summarise(values, per=step_count) for way, values in times.items()}
    ratio = {f"PEFT / {way}": rows["PEFT"]["median_ms"] / rows[way]["median_ms"] for way in works}
    return {"rows": rows, "ratio": ratio, **{key: about[key] for key in ABOUT}}
