"""What a GPU owes this project, the most valuable first, within so many minutes: the headline command, exactness, and ratios side by side.

python experiments/on_gpu.py --minutes=8 --workdir=runs            # one GPU, no network, whatever JAX is there; needs no installation
python experiments/on_gpu.py --data_dir=mnist.npz                  # all of MNIST where TensorFlow Datasets is not (experiments/data/mnist_file.py)
python experiments/on_gpu.py --preset=smoke                        # on a CPU: shows that every part runs

It writes on_gpu-<device>/ after every part: on_gpu.json, table.txt, and the headline's figures. The same command goes on with what is missing,
then with what other code than today's measured.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # a clone runs where it lies

import itertools
import math
import os
import signal
import time
from typing import Any

from absl import flags
from etils import epath

from experiments.common import cli
from experiments.common.errors import UserError
from experiments.common.recording import make_folder, slug, write_text
from experiments.gpu import children, headline, parts, report
from experiments.gpu.record import Record
from experiments.gpu.worker import Order, needed_s

RESULTS = pathlib.Path(__file__).resolve().parent / "results" / "gpu"
CLOSING_S = 5.0  # what the last table takes
NO_PEFT = "no interpreter with torch and peft here (--peft_python)"

flags.DEFINE_float("minutes", 8.0, "how long to measure; a part that would take longer than is left is not begun")
flags.DEFINE_string("workdir", "runs", "folder for the results and the headline's run")
flags.DEFINE_enum(
    "preset", "full", list(parts.SIZES), "full, or smoke: seconds, on any device, to see that every part runs"
)
flags.DEFINE_enum(
    "accelerator", "auto", ["auto", "cpu", "gpu", "tpu"], "where to compute; one that is absent is an error"
)
flags.DEFINE_string(
    "data_dir",
    None,
    "MNIST for the headline, as for rank_sweep.py: a folder of TensorFlow Datasets, or a file mnist.npz",
)
flags.DEFINE_string("peft_python", sys.executable, "interpreter with torch and peft")
flags.DEFINE_multi_enum("only", None, [headline.NAME, *parts.PARTS], "parts to measure; by default all")
FLAGS = flags.FLAGS


def run() -> None:
    begun = time.time()
    if not math.isfinite(FLAGS.minutes) or FLAGS.minutes <= 0:
        raise UserError(f"--minutes={FLAGS.minutes:g}: give a number of minutes above 0.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # children end with this process
    if FLAGS.preset == "smoke":
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # of the children: compiling is what a smoke test takes
    deadline = begun + 60 * FLAGS.minutes - CLOSING_S
    about = _about(deadline)
    if about["platform"] == "cpu" and FLAGS.preset != "smoke":
        raise UserError(
            "JAX finds no GPU here, only a CPU, where these parts would take hours; --preset=smoke shows that every part runs."
        )
    device = slug(about["device_kind"]) + ("-smoke" if FLAGS.preset == "smoke" else "")
    folder = epath.Path(FLAGS.workdir).expanduser() / f"on_gpu-{device}"
    make_folder(folder)
    found = Record(folder, about, earlier=epath.Path(RESULTS / device))
    left = _measure(found, FLAGS.only or list(report.TITLES), deadline)
    table = report.table(about, found.parts)
    write_text(folder / "table.txt", table + "\n")
    print(table)
    print(f"left for the next time: {', '.join(left)}" if left else "nothing is left that can be measured here")
    print(f"results: {folder}")


def _about(deadline: float) -> dict[str, Any]:
    """What a worker says of the device. Raises UserError for one that is absent, or does not answer in time."""
    heard: dict[str, Any] = {}
    status = children.listen(Order([], FLAGS.preset, FLAGS.accelerator, "", deadline), heard.update)
    if "mistake" in heard:
        raise UserError(heard["mistake"])
    if "about" not in heard:
        how = (
            "did not start in time; give more --minutes"
            if status is None
            else f"ended with status {status}; see what it said"
        )
        raise UserError(f"JAX {how}.")
    return heard["about"]


def _measure(found: Record, names: list[str], deadline: float) -> list[str]:
    """Measures what there is time for; the names of what is left."""
    order = [name for name in [headline.NAME, *parts.PARTS] if name in names]
    has_peft = any(name in parts.NEED_PEFT for name in order) and children.has_peft(FLAGS.peft_python)
    for name in [name for name in order if name in parts.NEED_PEFT and not has_peft]:
        found.add(name, failed=NO_PEFT)
        order.remove(name)
    todo = found.order(order)
    if not todo:
        print(f"{found.folder} has every part; remove it to measure them again", file=sys.stderr, flush=True)
    for is_headline, group in itertools.groupby(todo, lambda name: name == headline.NAME):
        if is_headline:
            _headline(found, deadline)
        else:
            _workers(found, list(group), deadline)
    return found.order(order)


def _headline(found: Record, deadline: float) -> None:
    left = deadline - time.time()
    if left < needed_s(headline.ABOUT_S, FLAGS.preset):
        return
    _say(headline.NAME)
    platform, workdir = found.about["platform"], epath.Path(FLAGS.workdir).expanduser()
    try:
        measured = headline.measure(
            found.folder, workdir, accelerator=platform, preset=FLAGS.preset, data_dir=FLAGS.data_dir, seconds=left
        )
    except UserError as error:
        found.add(headline.NAME, failed=str(error))
        return
    if measured is not None:
        result, seconds = measured
        found.add(headline.NAME, result=result, seconds=seconds)


def _workers(found: Record, names: list[str], deadline: float) -> None:
    """One worker for all; where it dies in a part, another for those after it."""
    while names:
        on: list[str] = []  # the part that the worker is at

        def hear(what: dict[str, Any], on: list[str] = on) -> None:
            if "begun" in what:
                on[:] = [what["begun"]]
                _say(what["begun"])
            elif "part" in what:
                on.clear()
                found.add(what.pop("part"), **what)

        status = children.listen(Order(names, FLAGS.preset, FLAGS.accelerator, FLAGS.peft_python, deadline), hear)
        if status is None and on:
            print(f"{on[0]} was ended: its time is up", file=sys.stderr, flush=True)
        if not status or not on:  # it is through, or the time is up, or it never began
            return
        found.add(on[0], failed=f"its process ended with status {status}; see what it said")
        names = names[names.index(on[0]) + 1 :]


def _say(name: str) -> None:
    print(f"measuring: {report.TITLES[name]}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(run)
