"""What the repository keeps of a run, and the studies that are read from it again."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from absl import flags
from etils import epath

from experiments.common import processes
from experiments.common.errors import UserError
from experiments.common.figures import style
from experiments.common.recording import ENVIRONMENT, copy, make_folder, understood, write_json
from experiments.ledger.facts import OUTCOMES
from experiments.ledger.table import Claim
from lora_jax import files

FLAGS = flags.FLAGS
ADVICE = "name a folder that a run without --from_results wrote"


@dataclasses.dataclass(frozen=True)
class Study:
    """What runs and keeps its summaries, their names, what claims follow from them, the entry that runs it alone, and its figures."""

    run: Callable[[epath.Path, Any], object]
    kept: tuple[str, ...]
    claims_of: Callable[..., list[Claim]]
    entry: str
    figures: Any

    def is_in(self, folder: epath.Path) -> bool:
        return any((folder / name).is_dir() for name in self.kept)

    def read(self, folder: epath.Path) -> list[dict[str, Any]]:
        """The summaries that are kept there."""
        return [_summary(folder / name / "summary.json") for name in self.kept]

    def is_of_before(self, summaries: list[dict[str, Any]]) -> bool:
        """Whether they were written before summaries kept outcomes."""
        return not all(any(name in said for name in OUTCOMES) for said in map(json.dumps, summaries))

    def claims(self, folder: epath.Path, summaries: list[dict[str, Any]]) -> list[Claim]:
        """From the summaries that are kept in the folder."""
        preset = FLAGS.preset if FLAGS.from_results is None else "full"
        command = f"python experiments/{self.entry} --preset={preset}"
        with understood(folder, ADVICE):
            return self.claims_of(*summaries, command)

    def redraw(self, folder: epath.Path, summaries: list[dict[str, Any]]) -> None:
        """The figures of what is kept, beside each summary."""
        for name, summary in zip(self.kept, summaries, strict=True):
            with understood(folder, ADVICE):
                for path in self.figures.draw(summary, folder / name):
                    print(f"figure: {path}")


def _summary(path: epath.Path) -> dict[str, Any]:
    try:
        return files.require_fields(files.read_json(path, error=UserError), str(path), {}, error=UserError)
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}; {ADVICE}.") from error


def keep(folder: epath.Path, name: str, summary: dict[str, Any], run_path: epath.Path) -> None:
    """The small files of a run that the repository keeps; figures that an earlier run drew, and this one did not, go."""
    kept = folder / name
    make_folder(kept)
    write_json(kept / "summary.json", summary)
    drawn = [path for path in _figures(run_path) if path.stem != "predictions"]  # that shows MNIST itself
    names = {path.name for path in drawn}
    for path in _figures(kept) if processes.is_first() else ():
        if path.name not in names:
            path.unlink(missing_ok=True)
    copy([*drawn, run_path / "table.txt", run_path / ENVIRONMENT], kept)


def _figures(folder: epath.Path) -> list[epath.Path]:
    return [path for kind in style.FORMATS for path in folder.glob(f"*.{kind}")]
