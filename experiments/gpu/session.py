"""What is measured in the time there is: the headline's command, and parts by workers, of which one that dies leaves the others alone."""

import itertools
import sys
import time
from typing import Any

from experiments.common.errors import UserError
from experiments.gpu import children, headline, instructions, parts, report
from experiments.gpu.entries import Asked
from experiments.gpu.record import Record
from experiments.gpu.worker import Order, needed_s

COMMANDS = {module.NAME: module for module in (headline, instructions)}


def measure(found: Record, names: list[str], asked: Asked) -> None:
    """Measures what there is time for, in the record's order."""
    todo = found.order(names)
    if names and not todo:
        print(f"{found.folder} has these parts; remove it to measure them again", file=sys.stderr, flush=True)

    def process(name: str) -> str:
        """What runs it: parts of one word, one after the other, share a worker."""
        is_alone = name in COMMANDS or (parts.PARTS[name].is_alone and asked.preset != "smoke")
        return name if is_alone else "worker"

    for runs_it, group in itertools.groupby(todo, process):
        if runs_it in COMMANDS:
            _command(runs_it, found, asked)
        else:
            workers(found, list(group), asked)


def _command(name: str, found: Record, asked: Asked) -> None:
    """An entry, which saves and goes on, in its share of the time."""
    of = COMMANDS[name]
    left, needed = asked.deadline - time.time(), needed_s(of.ABOUT_S, asked.preset)
    if left < min(needed, of.LEAST_S):
        return
    _say(name)
    try:
        measured = of.measure(found, asked, min(left, max(needed, left * of.SHARE)))
    except UserError as error:
        found.add(name, failed=str(error))
        return
    if measured is not None:
        result, seconds = measured
        found.add(name, result=result, seconds=seconds)


def workers(found: Record, names: list[str], asked: Asked) -> None:
    """One worker for all; where it dies in a part, another for the others."""
    left = list(names)
    while left:
        on: list[str] = []  # the part that the worker is at
        heard: list[str] = []  # parts of which something came

        def hear(what: dict[str, Any], on: list[str] = on, heard: list[str] = heard) -> None:
            if "mistake" in what:
                _warn(f"the worker says: {what['mistake']}")
            elif "begun" in what:
                on[:] = [what["begun"]]
                _say(what["begun"])
            elif "part" in what:
                on.clear()
                heard.append(what["part"])
                found.add(what.pop("part"), **what)

        status = children.listen(Order(left, asked.preset, asked.accelerator, asked.python, asked.deadline), hear)
        if status is None:
            _warn(f"{on[0] if on else 'a worker'} was ended: the time is up")
            return
        if not status:  # what it left out it had no time for
            return
        if on:
            found.add(on[0], failed=f"its process ended with status {status}; see what it said")
        elif not heard:
            _warn(f"a worker ended with status {status} before its first part; see what it said")
            return
        left = [name for name in left if name not in (*heard, *on)]


def _say(name: str) -> None:
    _warn(f"measuring: {report.TITLES[name]}")


def _warn(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
