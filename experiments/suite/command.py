"""`reproduce.py`: what is missing of the studies, the ledger of claims, and the pages that are made from it."""

import os
from typing import Any

from absl import flags
from etils import epath

from experiments.common import devices, locks, main, smoke
from experiments.common.errors import UserError
from experiments.common.recording import environment, make_folder
from experiments.data import by_flags
from experiments.ledger import pages
from experiments.ledger import table as ledger
from experiments.lm import runs as lm
from experiments.lm.options import TEXT_FLAGS
from experiments.sst2 import inputs as sst2_inputs
from experiments.suite.kept import Study
from experiments.suite.studies import OF_SENTENCES, STUDIES, Data

FLAGS = flags.FLAGS
RESULTS = epath.Path(__file__).parents[1] / "results"


def run() -> None:
    chosen = {key: study for key, study in STUDIES.items() if FLAGS.only is None or key in FLAGS.only}
    folder, data = _prepared(chosen) if FLAGS.from_results is None else (_as_kept(), None)
    with locks.held(folder):
        _reproduce(chosen, folder, data)


def _reproduce(chosen: dict[str, Study], folder: epath.Path, data: Data | None) -> None:
    about = environment()  # before the results folder changes: a commit that is clean should be said to be
    for study in chosen.values() if data else ():
        study.run(folder, data)  # what is missing
    told, of_before = _readable(chosen, folder)
    for study, summaries in told if FLAGS.redraw else ():
        study.redraw(folder, summaries)
    claims = [claim for study, summaries in told for claim in study.claims(folder, summaries)]
    preset = FLAGS.preset if FLAGS.from_results is None else "full"
    for path in ledger.write(claims, about, folder, preset, of_before) if FLAGS.only is None else []:
        print(f"ledger: {path}")
    if FLAGS.only is None and os.path.realpath(folder) == os.path.realpath(RESULTS):
        for page in pages.write():
            print(f"page: {page}")
    if smoke.is_on():
        print(smoke.NOTE)
    for claim in claims:
        print(f"{claim.id:<7} {claim.verdict}: {claim.statement}")


def _readable(
    chosen: dict[str, Study], folder: epath.Path
) -> tuple[list[tuple[Study, list[dict[str, Any]]]], list[str]]:
    """The studies that are kept there, with their summaries; and the entries of those whose summaries are of an earlier form: these are left
    out in a line each.

    Raises:
      UserError: where --only names one of these, or nothing is left.
    """
    there = {}
    for key, study in chosen.items():
        if study.is_in(folder):
            there[key] = (study, study.read(folder))
        else:
            print(f"not in {folder}: {', '.join(study.kept)}")
    before = {key: study for key, (study, summaries) in there.items() if study.is_of_before(summaries)}
    for key, study in before.items():
        said = f"{folder}: {' and '.join(study.kept)} keep no outcomes of each seed, so their summaries are of an earlier form"
        command = f"python experiments/reproduce.py --preset=full --only={key}"
        if FLAGS.only is not None or len(before) == len(there):
            raise UserError(f"{said}; make them anew by {command}.")
        print(f"left out: {said}; {command} makes them anew")
    readable = [kept for key, kept in there.items() if key not in before]
    return readable, [study.entry for study in before.values()]


def _as_kept() -> epath.Path:
    given = ("preset", "seeds", "workdir", "accelerator", "data_dir", "download", *TEXT_FLAGS)
    main.refuse(given, "with --from_results")
    folder = epath.Path(FLAGS.from_results)
    if not any((folder / name).is_dir() for study in STUDIES.values() for name in study.kept):
        raise UserError(f"--from_results={folder} keeps no study; name a folder that a run without this flag wrote.")
    return folder


def _prepared(chosen: dict[str, Study]) -> tuple[epath.Path, Data]:
    """The folder where the summaries will be, and what the studies learn from; the devices are settled."""
    if FLAGS.seeds == 1:
        raise UserError("--seeds=1: a verdict needs an interval, and an interval needs at least 2 seeds.")
    if FLAGS.redraw:
        raise UserError("--redraw draws what is kept, and needs --from_results=FOLDER; a run draws its figures anyway.")
    if "s4" not in chosen:
        main.refuse(TEXT_FLAGS, "without s4 among the studies")
    devices.settle(
        with_cores=True
    )  # as a study of BERT run by itself does, so that one can go on with the other's work
    data = Data(
        by_flags.load_mnist(),
        sst2_inputs.load() if OF_SENTENCES & chosen.keys() else None,
        lm.sources() if "s4" in chosen else None,
    )
    is_reference = FLAGS.preset == "full" and data.is_full
    folder = RESULTS if is_reference else epath.Path(FLAGS.workdir) / f"claims-{FLAGS.preset}"
    make_folder(folder)
    return folder, data
