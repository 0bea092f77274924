"""A process that measures parts: `python -m experiments.gpu.worker '{"names": [...], ...}'`, see `Order`.

It prints a line of JSON for all that happens, after MARK: first {"about": ...}, then for each part {"begun": name} and {"part": name, "result": ...,
"seconds": ...} or {"part": name, "failed": "..."}; a part for which the time is too short it leaves out. What else parts print is passed on.
"""

import json
import os
import sys
import time
import traceback
from typing import Any, NamedTuple

MARK = "on_gpu: "
SPOILED = 3  # the exit status that asks for another worker


class Order(NamedTuple):
    """What to measure: `deadline` is in seconds since the epoch, `python` an interpreter with torch and peft, or ""."""

    names: list[str]
    preset: str
    accelerator: str
    python: str
    deadline: float


def main(order: Order) -> None:
    import jax

    from experiments.benchmarks import record
    from experiments.common import accelerator, draws
    from experiments.common.errors import UserError
    from experiments.gpu.parts import PARTS, SIZES, Size, shrink
    from lora_jax.errors import first_line

    try:
        accelerator.settle(order.accelerator)
    except UserError as error:
        say(mistake=str(error))
        return
    draws.fuse_on_cpu()
    if order.preset == "smoke":
        shrink()
    say(about=record.conditions(order.preset))
    parent = os.getppid()
    for name in order.names:
        if os.getppid() != parent:  # whoever asked is gone
            return
        if time.time() + needed_s(PARTS[name].about_s, order.preset) > order.deadline:
            continue
        say(begun=name)
        start = time.monotonic()
        try:
            result = PARTS[name].measure(Size(*SIZES[order.preset], python=order.python))
        except Exception as error:  # of a device, a compiler or a library: the other parts are measured all the same
            traceback.print_exc()
            say(part=name, failed=f"{type(error).__name__}: {first_line(error)}")
            if isinstance(error, (jax.errors.JaxRuntimeError, MemoryError)):
                sys.exit(SPOILED)  # after some errors a device answers nothing else in this process
            continue
        if result is None:
            say(part=name, failed="PEFT failed; see what it said")
        else:
            say(part=name, result=result, seconds=time.monotonic() - start)


def needed_s(about_s: int, preset: str) -> float:
    """Seconds that a part needs; one that is only to be seen to work takes a few."""
    return 5.0 if preset == "smoke" else float(about_s)


def say(**what: Any) -> None:
    print(MARK + json.dumps(what), flush=True)


if __name__ == "__main__":
    main(Order(**json.loads(sys.argv[1])))
