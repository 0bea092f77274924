"""Runs of every entry, killed at random moments and finished by the same command: is the summary the uninterrupted run's? A run of its own:

    python -m tests.experiments.kills --kills=200 --out=kills.json

Runs are forks of this process, which has imported everything and started nothing: each costs what it computes.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from typing import Any

import jax

from experiments.common import phases
from experiments.finetune import settings as finetune_lm
from experiments.linear import settings as linear
from experiments.lm import pretraining_settings as lm_pretraining
from tests import thrift
from tests.experiments import chat_lm, entries, forks
from tests.experiments.forks import wait
from tests.experiments.one_part import ONE_PART

SENTENCES = "sentence,label\n" + "\n".join(
    f"{'a fine and warm film' if i % 2 else 'a dull and cold film'} number {i},{i % 2}" for i in range(400)
)
ENTRIES = {
    "linear_teacher": ("linear_teacher.py",),
    "rank_sweep": ("rank_sweep.py", "--task=linear_teacher"),
    "rank_sweep mnist": ("rank_sweep.py", "--task=mnist"),
    "mnist_digit9": ("mnist_digit9.py", "--study=s1"),
    "mnist_new_digits": ("mnist_new_digits.py", "--job=all"),
    "bert_sst2 finetune": ("bert_sst2.py", "--job=finetune", "--train_file={home}/train.csv", "--batch_size=16"),
    "tiny_lm pretrain": ("tiny_lm.py", "--job=pretrain", "--size=0.3M"),
    "finetune_lm": ("finetune_lm.py", "--model={home}/model", "--steps=20"),
}
# What a run that went on may say otherwise: how long it took, and on what.
PASSING = re.compile(r"seal|.*second.*|.*_s|.*peak.*|.*waiting.*|traces|flops.*|.*mfu.*|.*per_step.*")


def fork(workdir: pathlib.Path, name: str, home: pathlib.Path) -> int:
    """Begins a run that saves after every block; its process id."""
    if pid := forks.begun(workdir):
        return pid
    phases.SAVE_EVERY_S = 0.0
    small()
    entry, *more = (part.format(home=home) for part in ENTRIES[name])
    os._exit(entries.execute(entry, *more, "--preset=smoke", "--accelerator=cpu", f"--workdir={workdir}"))


def small() -> None:
    """Presets that take seconds: what is tried is the going on."""
    linear.PRESETS["smoke"] = linear.Settings(ranks=(2,), seeds=2, steps=60, blocks=6, **ONE_PART)
    lm_pretraining.PRESETS["smoke"] = dataclasses.replace(lm_pretraining.PRESETS["smoke"], tokens=20_000)
    finetune_lm.PRESETS["smoke"] = chat_lm.SETTINGS


def make_model(home: pathlib.Path) -> None:
    """In a child: this process must not start JAX."""
    pid = os.fork()
    if not pid:
        chat_lm.folder(home / "model")
        os._exit(0)
    assert wait(pid) == 0


def said(workdir: pathlib.Path) -> str:
    return "\n".join(path.read_text()[-600:] for path in sorted(workdir.parent.glob(f"{workdir.name}.*.txt")))


def lasting(value: Any) -> Any:
    """Without what is of the moment."""
    if isinstance(value, dict):
        return {name: lasting(each) for name, each in value.items() if not PASSING.fullmatch(name)}
    return [lasting(each) for each in value] if isinstance(value, list) else value


def result(workdir: pathlib.Path) -> str:
    """Every summary of the workdir, and the names of what lies beside it."""
    found = {path.parent.name: lasting(json.loads(path.read_text())) for path in sorted(workdir.glob("*/summary.json"))}
    files = sorted(
        str(path.relative_to(workdir)) for path in workdir.rglob("*") if path.is_file() and ".tmp" not in str(path) and "/adapter/" not in str(path)
        and "/adapters/" not in str(path) and "/bases/" not in str(path)
    )  # fmt: skip
    text = json.dumps([found, files], sort_keys=True)
    return text.replace(str(workdir), "WORKDIR")


def killed(name: str, home: pathlib.Path, seconds: float, rng: random.Random) -> dict[str, Any]:
    """One run, killed at a random moment (some twice), and finished by the same command."""
    workdir = home / "killed"
    ends = []
    for _ in range(rng.choice((1, 1, 2))):
        pid = fork(workdir, name, home)
        time.sleep(rng.uniform(0.02, 1.0) * seconds)
        os.kill(pid, signal.SIGKILL)
        ends.append(wait(pid))
    status = wait(fork(workdir, name, home))
    found = {"entry": name, "ends": ends, "status": status, "result": result(workdir), "said": said(workdir)}
    shutil.rmtree(workdir, ignore_errors=True)
    for path in home.glob("killed.*.txt"):
        path.unlink()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(ENTRIES))
    asked = parser.parse_args()
    thrift.save_time_and_memory()
    rng, wrong, counts = random.Random(asked.seed), [], dict.fromkeys(asked.only, 0)
    with tempfile.TemporaryDirectory() as folder:
        home = pathlib.Path(folder)
        (home / "train.csv").write_text(SENTENCES)
        make_model(home)
        jax.config.update("jax_compilation_cache_dir", str(home / "cache"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        whole, took = {}, {}
        for name in asked.only:
            assert wait(fork(home / "warm", name, home)) == 0, said(home / "warm")
            shutil.rmtree(home / "warm")
            started = time.monotonic()
            assert wait(fork(home / "whole", name, home)) == 0, said(home / "whole")
            took[name], whole[name] = time.monotonic() - started, result(home / "whole")
            shutil.rmtree(home / "whole")
            print(f"{name}: {took[name]:.1f} s", flush=True)
        for number in range(asked.kills):
            name = asked.only[
                min(range(len(asked.only)), key=lambda i: (counts[asked.only[i]] + 1) * took[asked.only[i]])
            ]
            found = killed(name, home, took[name], rng)
            counts[name] += 1
            if found["status"] or found["result"] != whole[name]:
                wrong.append({**found, "whole": whole[name]})
            if number % 10 == 9:
                print(f"{number + 1} kills, {len(wrong)} wrong", flush=True)
            asked.out.write_text(json.dumps({"kills": number + 1, "of": counts, "wrong": wrong}, indent=1))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
