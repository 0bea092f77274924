"""`benchmark.py`: what is missing of the measurements, and their table."""

import os
import sys
from collections.abc import Callable
from typing import Any

from absl import flags
from etils import epath

from experiments.benchmarks import pages, record, report
from experiments.benchmarks.titles import TITLES
from experiments.common import devices, locks, main, preemption, smoke
from experiments.common.errors import UserError
from experiments.common.recording import make_folder, read_json, understood, write_text

NEED_PEFT = ("peft", "bert_peft", "lm_peft", "lm_instructions", "lm_generation", "smollm2", "smollm2_generation")
STEPS = {"smoke": 10, "quick": 100, "full": 200}
BERT_STEPS = {"smoke": 2, "quick": 20, "full": 40}  # BERT-tiny's take some 30 times as long
LM_STEPS = {"smoke": 1, "quick": 3, "full": 5}  # a step takes a second
NEW_TOKENS = {"smoke": 4, "quick": 64, "full": 128}
ROUNDS = {"smoke": 2, "quick": 10, "full": 30}

FLAGS = flags.FLAGS


def run() -> None:
    if FLAGS.redraw is not None:
        _redraw(epath.Path(FLAGS.redraw))
        return
    from experiments.benchmarks import against_peft, sweeps

    main.refuse(("seeds",), f"here: every sweep that is timed has {sweeps.SEEDS}")
    main.refuse(("mesh", "profile", "num_processes"), "here: each part says on which devices it runs")
    platform = devices.settle()
    chosen = [name for name in TITLES if FLAGS.only is None or name in FLAGS.only]
    has_peft = any(name in NEED_PEFT for name in chosen) and against_peft.is_installed(FLAGS.peft_python)
    # A choice of parts goes to a folder of its own: what was measured in one run stays together.
    folder = epath.Path(FLAGS.workdir) / "-".join(["benchmark", platform, *(chosen if FLAGS.only else [])])
    make_folder(folder)
    with locks.held(folder):
        _measure(folder, chosen, has_peft)


def _redraw(folder: epath.Path) -> None:
    """The table of what is kept; nothing is measured."""
    main.refuse(
        ("preset", "workdir", "accelerator", "only", "peft_python", "seeds", "mesh", "profile"), "with --redraw"
    )
    found = read_json(folder / pages.FILE)
    if found is None:
        raise UserError(f"--redraw={folder} has no {pages.FILE}; name a folder that a run without this flag wrote.")
    with understood(folder / pages.FILE, "name a folder that a run without --redraw wrote"):
        table = report.table(found["results"])
    write_text(folder / "table.txt", table + "\n")
    print(table)
    if os.path.realpath(folder.parent) == os.path.realpath(pages.RESULTS) and pages.write():
        print(f"page: {pages.PAGE}")


def _measure(folder: epath.Path, chosen: list[str], has_peft: bool) -> None:
    found = record.Record(folder / "benchmark.json", record.conditions(FLAGS.preset))
    measure_missing(chosen, found, has_peft)
    table = smoke.noted(report.table(found.of([TITLES[name] for name in chosen])))
    write_text(folder / "table.txt", table + "\n")
    print(table)
    print(f"benchmark: {found.path}")


def measure_missing(chosen: list[str], found: record.Record, has_peft: bool) -> None:
    """Adds to the record the parts that it lacks; one that needs PEFT where there is none as None."""
    taken = [name for name in chosen if found.has(TITLES[name], FLAGS.peft_python if has_peft else None)]
    absent = [name for name in chosen if name in NEED_PEFT and not has_peft]
    if taken and not set(chosen) - {*taken, *absent}:
        print(f"{found.path.parent} is complete; remove the folder to measure again", file=sys.stderr, flush=True)
    elif taken:
        print(f"taking up {len(taken)} of {len(chosen)} parts from {found.path}", file=sys.stderr, flush=True)
    measure = parts(FLAGS.preset, FLAGS.peft_python)
    for name in chosen:
        if name in taken:
            continue
        print(f"measuring: {TITLES[name]}", file=sys.stderr, flush=True)
        with preemption.saving():
            found.add(TITLES[name], None if name in absent else measure[name]())  # what is measured stays
            if preemption.is_due():
                preemption.stop(f"{TITLES[name]}, in {found.path}")


def parts(preset: str, python: str) -> dict[str, Callable[[], dict[str, Any] | None]]:
    """Name -> what measures it; see TITLES."""
    from experiments.benchmarks import (  # fmt: skip
        against_peft,
        bert_lengths,
        bert_steps,
        bert_sweep,
        flax_peers,
        growth,
        lm_steps,
        many_adapters,
        smollm2,
        steps,
        sweeps,
        tracing,
        variants,
    )

    count, short, rounds = STEPS[preset], BERT_STEPS[preset], ROUNDS[preset]
    turns, few = max(1, rounds // 5), LM_STEPS[preset]
    return {
        "step": lambda: steps.lora_against_full(count, rounds),
        "scan": lambda: steps.scan_against_loop(count, rounds),
        "sweep": lambda: sweeps.one_program_against_serial(count, max(2, rounds // 4)),
        "peft": lambda: against_peft.mlp(python, count, turns),
        "bert_step": lambda: bert_steps.lora_against_full(short, rounds),
        "bert_peft": lambda: against_peft.bert(python, short, turns),
        "bert_lengths": lambda: bert_lengths.buckets_against_padding(count, rounds),
        "lm_step": lambda: lm_steps.lora_against_full(few, rounds),
        "lm_step_26m": lambda: lm_steps.large_lora_against_full(few, max(2, rounds // 4)),
        "lm_peft": lambda: against_peft.lm(python, few, turns),
        "lm_instructions": lambda: against_peft.instructions(python, few, turns),
        "lm_generation": lambda: against_peft.generation(python, NEW_TOKENS[preset], turns),
        "smollm2": lambda: smollm2.step(python, turns),
        "smollm2_generation": lambda: smollm2.generation(python, min(smollm2.NEW_TOKENS, NEW_TOKENS[preset]), turns),
        "variants": lambda: variants.compared(short, rounds),
        "flax_peers": lambda: flax_peers.compared(short, rounds),
        "mixed_batch": lambda: many_adapters.mixed_batch(short, rounds),
        "many_adapters": lambda: many_adapters.trained(short, max(2, rounds // 4)),
        "tracing": lambda: tracing.compared(max(2, rounds // 4)),
        "bert_sweep": lambda: bert_sweep.strategies(short, rounds),
        "members": lambda: growth.members(short, rounds),
        "ranks": lambda: growth.ranks(count, rounds),
        "widths": lambda: growth.widths(short, rounds),
        "lengths": lambda: growth.lengths(few, max(2, rounds // 2)),
        "devices": lambda: growth.devices(short, rounds),
    }
