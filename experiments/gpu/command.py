"""`on_gpu.py`: within the minutes, what is missing of the measurements."""

import os
import pathlib
import signal
import sys
import time
from typing import Any

from absl import flags
from etils import epath

from experiments.common import locks, smoke
from experiments.common.errors import UserError
from experiments.common.recording import make_folder, slug, write_text
from experiments.gpu import children, parts, report, session
from experiments.gpu.entries import Asked
from experiments.gpu.record import Record
from experiments.gpu.worker import Order

RESULTS = pathlib.Path(__file__).resolve().parents[1] / "results" / "gpu"
ANSWER_S = 90.0  # that the device gets to say what it is
CLOSING_S = 5.0  # what the last table takes
NO_PEFT = "no interpreter with torch and peft here (--peft_python)"
FLAGS = flags.FLAGS


def run() -> None:
    begun = time.time()
    if FLAGS.data_dir and not epath.Path(FLAGS.data_dir).exists():
        raise UserError(f"--data_dir={FLAGS.data_dir}: there is no such folder or file.")
    workdir = epath.Path(FLAGS.workdir)
    make_folder(workdir)
    names = [name for name in parts.NAMES if FLAGS.only is None or name in FLAGS.only]
    has_peft = any(name in parts.NEED_PEFT for name in names) and children.has_peft(
        FLAGS.peft_python, is_named=FLAGS["peft_python"].present > 0
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # children end with this process
    if FLAGS.preset == "smoke" and FLAGS.accelerator in ("auto", "cpu"):
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # of the children: compiling is what a smoke test takes
    deadline = begun + 60 * FLAGS.minutes - CLOSING_S
    about = _about(min(deadline, time.time() + ANSWER_S))
    if about["platform"] == "cpu" and FLAGS.preset != "smoke":
        raise UserError(
            "JAX finds no GPU here, only a CPU, where these parts would take hours; --preset=smoke shows that every part runs."
        )
    found = _record(workdir, about)
    with locks.held(found.folder):
        _measure(found, names, has_peft, about["platform"], deadline)


def _measure(found: Record, names: list[str], has_peft: bool, platform: str, deadline: float) -> None:
    for name in parts.NEED_PEFT:
        if name in names and not has_peft:
            found.add(name, failed=NO_PEFT)
    able = [name for name in names if has_peft or name not in parts.NEED_PEFT]
    texts = tuple(f"--corpus={path}" for path in FLAGS.corpus or ())
    texts += (f"--questions={FLAGS.questions}",) if FLAGS.questions else ()
    asked = Asked(FLAGS.preset, platform, FLAGS.peft_python, FLAGS.data_dir, deadline, texts)
    session.measure(found, able, asked)
    _close(found, able)


def _record(workdir: epath.Path, about: dict[str, Any]) -> Record:
    """Of this kind and number of devices; what is committed of them counts as measured."""
    device = slug(about["device_kind"]) + (f"-x{about['devices']}" if about["devices"] > 1 else "")
    device += "-smoke" if about["preset"] == "smoke" else ""
    folder = workdir / f"on_gpu-{device}"
    make_folder(folder)
    return Record(folder, about, earlier=epath.Path(RESULTS / device))


def _close(found: Record, names: list[str]) -> None:
    """Writes and prints the table, and says what is left of these."""
    table = smoke.noted(report.table(found.about, found.parts))
    write_text(found.folder / "table.txt", table + "\n")
    print(table)
    left = found.order(names)
    print(f"left for the next time: {', '.join(left)}" if left else f"measured: {', '.join(names) or 'nothing'}")
    print(f"results: {found.folder}")


def _about(deadline: float) -> dict[str, Any]:
    """What a worker says of the device. Raises UserError for one that is absent, or does not answer in time."""
    heard: dict[str, Any] = {}
    status = children.listen(Order([], FLAGS.preset, FLAGS.accelerator, "", deadline), heard.update)
    if "mistake" in heard:
        raise UserError(heard["mistake"])
    if "about" not in heard:
        how = (
            "the device did not answer in time"
            if status is None
            else f"JAX ended with status {status}; see what it said"
        )
        raise UserError(f"{how}.")
    return heard["about"]
