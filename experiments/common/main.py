"""The flow that all experiments share: settle the device, find or make the run, record, print, draw."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from absl import flags

from experiments.common import devices, phases, processes, profiling, smoke
from experiments.common.errors import UserError
from experiments.common.recording import RunFolder, path_of, write_text

FLAGS = flags.FLAGS


class Data(Protocol):
    """What a run depends on beside its settings."""

    checksum: str

    def record(self) -> dict[str, Any]: ...


def settings_from_flags(presets: dict[str, Any], **overrides: Any) -> Any:
    """The preset's settings with whatever flags were given; an override of None is not given."""
    given = {name: value for name, value in overrides.items() if value is not None}
    if FLAGS.seeds is not None:
        given["seeds"] = FLAGS.seeds
    return dataclasses.replace(presets[FLAGS.preset], **given)


def chosen(name: str) -> tuple[Any, ...] | None:
    """The values of a list flag in order, so that the same choice is the same run; None where it is not given.

    Raises:
      UserError: for a value that is named twice.
    """
    values = FLAGS[name].value
    if values is None:
        return None
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise UserError(f"--{name}: {twice[0]} is named {values.count(twice[0])} times; name each value once.")
    return tuple(sorted(values))


def refuse(names: Sequence[str], why: str) -> None:
    """UserError for a flag that is given and would silently change nothing."""
    for name in names:
        if FLAGS[name].present:
            raise UserError(f"--{name} has no meaning {why}; leave it out.")


def run_folder(name: str, settings: Any, data: Data | None = None) -> RunFolder:
    """The folder of a run: named by its settings, its data and the platform."""
    return RunFolder(FLAGS.workdir, name, _config(settings, data))


def finished(name: str, settings: Any, data: Data | None = None) -> RunFolder | None:
    """The folder of such a run where it was finished, else None; makes none. Raises UserError for a damaged summary."""
    config = _config(settings, data)
    if not path_of(FLAGS.workdir, name, config).is_dir():
        return None
    folder = RunFolder(FLAGS.workdir, name, config)
    return None if folder.summary() is None else folder


def _config(settings: Any, data: Data | None) -> dict[str, Any]:
    return {
        "settings": dataclasses.asdict(settings),
        "data": data.checksum if data else None,
        "platform": devices.settle(),
    }


def execute(
    name: str,
    settings: Any,
    study: Callable[[RunFolder], dict[str, Any]],
    figures: Any,
    *,
    data: Data | None = None,
) -> dict[str, Any]:
    """Runs `study(folder) -> summary` unless the same run is complete; prints its table and draws its figures.

    Args:
      settings: a dataclass, as for `run_folder`.
      figures: a module of `experiments.figures`, with `table` and `draw`.
    """
    folder = run_folder(name, settings, data)
    summary = folder.summary()
    if summary is None:
        with folder.held():
            summary = folder.summary() or _run(folder, study, data)  # another process may just have finished it
    else:
        print(f"run: {folder.path} is complete; remove the folder to run it again", flush=True)
    report = smoke.noted(figures.table(summary))
    write_text(folder.path / "table.txt", report + "\n")
    print(report)
    if processes.is_first():
        for path in figures.draw(summary, folder.path):
            print(f"figure: {path}")
    print(f"summary: {folder.path / 'summary.json'}")
    return summary


def _run(folder: RunFolder, study: Callable[[RunFolder], dict[str, Any]], data: Data | None) -> dict[str, Any]:
    print(f"run: {folder.path} on {folder.config['platform']}", flush=True)
    folder.write_environment(data=data.record() if data else None)
    summary = folder.finish({**study(folder), "settings": folder.config["settings"]})
    folder.write_environment(data=data.record() if data else None, peak_memory_bytes=profiling.peak_memory())
    phases.forget_saves(folder)
    return summary
