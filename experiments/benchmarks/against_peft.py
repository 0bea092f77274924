"""Our LoRA training against PyTorch + PEFT on the same machine, in turns."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax

from experiments.benchmarks import bert_setting, floor, lm_setting, lm_steps, setting, steps, timing
from experiments.benchmarks.record import digest
from experiments.common import tied
from experiments.common.errors import UserError

WORKER = pathlib.Path(__file__).with_name("peft_steps.py")
ROUNDS_A_TURN = 3
ABOUT = ("torch", "peft", "transformers", "threads", "trainable", "peak_bytes", "peak_rss_bytes")


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
    rival = setting.lora()
    works = {"lora_jax": steps.scanned_epoch(rival, step_count)}
    return in_turns(python, "mlp", works, step_count, turns, operations=floor.of_step(rival))


def bert(python: str, step_count: int, turns: int) -> dict[str, Any] | None:
    """BERT-tiny, as a scanned epoch, as a loop of jitted steps, which is the shape of PyTorch's own loop, and with the whole of the last layer, which
    is PEFT's work. The floor is that of the first."""
    rival, whole = bert_setting.lora(), bert_setting.lora(bert_setting.WholeLastLayer)
    works = {
        "lora_jax": steps.scanned_epoch(rival, step_count),
        "lora_jax, loop": steps.loop(rival, step_count),
        "lora_jax, whole last layer": steps.scanned_epoch(whole, step_count),
    }
    return in_turns(python, "bert", works, step_count, turns, operations=floor.of_step(rival))


def lm(python: str, step_count: int, turns: int) -> dict[str, Any] | None:
    """The 3 M language model on full rows."""
    rival = lm_setting.lora()
    works = {"lora_jax": steps.scanned_epoch(rival, step_count)}
    return in_turns(python, "lm", works, step_count, turns, operations=floor.of_step(rival))


def instructions(python: str, count: int, turns: int) -> dict[str, Any] | None:
    """The same on instructions of Alpaca's lengths: ours packed, PEFT's in padded batches. Per instruction."""
    lengths = lm_setting.lengths(count * lm_setting.EXAMPLES)
    work, operations = lm_steps.instructions(lengths)
    said = json.dumps(lengths)
    return in_turns(
        python,
        "instructions",
        {"lora_jax": work},
        len(lengths),
        turns,
        operations=operations / len(lengths),
        stdin=said,
    )


def generation(python: str, new_tokens: int, turns: int) -> dict[str, Any] | None:
    """Greedy generation by the base, one prompt and 16 at a time. Per token of all prompts."""

    def of(batch: int) -> dict[str, Any] | None:
        works = {"lora_jax": lm_steps.generation(batch, new_tokens)}
        tokens = batch * new_tokens
        operations = lm_steps.flops_of_generation(batch, new_tokens) / tokens
        return in_turns(python, f"generation, {batch}", works, new_tokens, turns, operations=operations, per=tokens)

    return per_batch((1, 16), of)


def per_batch(batches: Sequence[int], measure: Callable[[int], dict[str, Any] | None]) -> dict[str, Any] | None:
    """One part of what is measured for so many prompts each; None where one of them is."""
    found: dict[str, Any] = {"rows": {}, "ratio": {}}
    for batch in batches:
        part = measure(batch)
        if part is None:
            return None
        found["rows"] |= {f"{name}, batch {batch}": row for name, row in part.pop("rows").items()}
        found["ratio"] |= {f"{name}, batch {batch}": ratio for name, ratio in part.pop("ratio").items()}
        found |= part
    return found


def in_turns(
    python: str,
    name: str,
    works: dict[str, Callable[[], Any]],
    step_count: int,
    turns: int,
    *,
    operations: float,
    moved: float | None = None,
    per: int | None = None,
    stdin: str | None = None,
) -> dict[str, Any] | None:
    """Time per step of ours and of PEFT's; None, and a line on stderr, where PEFT's side fails.

    Args:
      name: the setting, as the worker calls it.
      works: our ways to do as many steps.
      operations: FLOPs of our products a step, or whatever times are divided by.
      moved: bytes that must be read a step, where they are more than caches hold; as `operations`.
      per: what times are divided by, where it is not the steps.
      stdin: what the worker is told beside.
    """
    times: dict[str, list[float]] = {way: [] for way in (*works, "PEFT")}
    references = floor.references(reads=moved is not None)
    of_references: dict[str, list[float]] = {name: [] for name in references}
    about: dict[str, Any] = {}
    for work in (*works.values(), *references.values()):
        timing.seconds(work)
    for _ in range(turns):
        for way, work in works.items():
            times[way] += [timing.seconds(work) for _ in range(ROUNDS_A_TURN)]
        for way, work in references.items():
            of_references[way] += [timing.seconds(work) for _ in range(ROUNDS_A_TURN)]
        command = [python, str(WORKER), name, str(step_count), str(ROUNDS_A_TURN), _device()]
        done = subprocess.run(tied.command(command), capture_output=True, text=True, input=stdin)
        if done.returncode:
            print(f"PEFT fails: {(done.stderr.strip().splitlines() or ['no message'])[-1]}", file=sys.stderr)
            return None
        about = json.loads(done.stdout.splitlines()[-1])
        times["PEFT"] += about["seconds"]
    rate = floor.rates(of_references)
    rows = {way: timing.summarise(values, per=per or step_count) for way, values in times.items()}
    rows |= {way: floor.against(rows[way], operations, rate, moved) for way in works}
    of_ours = floor.against(rows["PEFT"], operations, rate, moved)
    rows["PEFT"]["times_the_floor"] = of_ours["times_the_floor"]  # of what ours computes
    ratio = {f"PEFT / {way}": rows["PEFT"]["median_ms"] / rows[way]["median_ms"] for way in works}
    return {
        "rows": rows,
        "ratio": ratio,
        "python": digest(python),
        **{key: about[key] for key in ABOUT if key in about},
    }


def _device() -> str:
    """What PyTorch calls the device that JAX runs on."""
    return "cuda" if jax.default_backend() == "gpu" else "cpu"
