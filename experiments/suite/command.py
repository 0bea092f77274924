"""`reproduce.py`: what is missing of the studies, and the ledger of claims."""

import dataclasses
from collections.abc import Callable
from typing import Any

from absl import flags
from etils import epath

from experiments.best_rate import claims as best_rate_claims
from experiments.best_rate import figures as best_rate_figures
from experiments.best_rate import settings as best_rate_settings
from experiments.best_rate import study as best_rate
from experiments.common import devices, locks, main, smoke
from experiments.common.errors import UserError
from experiments.common.figures import style
from experiments.common.recording import copy, environment, make_folder, understood, write_json
from experiments.data import by_flags
from experiments.data.mnist import Mnist
from experiments.digit9 import claims as digit9_claims
from experiments.digit9 import figures as digit9_figures
from experiments.digit9 import study as digit9
from experiments.ledger import table as ledger
from experiments.linear import claims as linear_claims
from experiments.linear import figures as linear_figures
from experiments.linear import study as linear
from experiments.lm import claims as lm_claims
from experiments.lm import figures as lm_figures
from experiments.lm import runs as lm
from experiments.lm import study as lm_study
from experiments.lm.options import TEXT_FLAGS
from experiments.new_digits import claims as new_digits_claims
from experiments.new_digits import figures as new_digits_figures
from experiments.new_digits import jobs as new_digits_jobs
from experiments.new_digits import study as new_digits
from experiments.rank import claims as rank_claims
from experiments.rank import figures as rank_figures
from experiments.rank import study as rank_mnist
from experiments.rank.task import of_mnist
from experiments.sst2 import claims as sst2_claims
from experiments.sst2 import figures as sst2_figures
from experiments.sst2 import inputs as sst2_inputs
from experiments.sst2 import study as sst2
from lora_jax import files

FLAGS = flags.FLAGS
RESULTS = epath.Path(__file__).parents[1] / "results"


def run() -> None:
    chosen = {key: study for key, study in STUDIES.items() if FLAGS.only is None or key in FLAGS.only}
    folder, data = _prepared(chosen) if FLAGS.from_results is None else (_as_kept(), None)
    with locks.held(folder):
        _reproduce(chosen, folder, data)


def _reproduce(chosen: dict[str, "Study"], folder: epath.Path, data: "Data | None") -> None:
    about = environment()  # before the results folder changes: a commit that is clean should be said to be
    for study in chosen.values() if data else ():
        study.run(folder, data)  # what is missing
    for study in chosen.values() if FLAGS.redraw else ():
        study.redraw(folder)
    claims = [claim for study in chosen.values() for claim in study.claims(folder)]
    preset = FLAGS.preset if FLAGS.from_results is None else "full"
    for path in ledger.write(claims, about, folder, preset) if FLAGS.only is None else []:
        print(f"ledger: {path}")
    if smoke.is_on():
        print(smoke.NOTE)
    for claim in claims:
        print(f"{claim.id:<7} {claim.verdict}: {claim.statement}")


def _as_kept() -> epath.Path:
    given = ("preset", "seeds", "workdir", "accelerator", "data_dir", "download", *TEXT_FLAGS)
    main.refuse(given, "with --from_results")
    folder = epath.Path(FLAGS.from_results)
    if not any((folder / name).is_dir() for study in STUDIES.values() for name in study.kept):
        raise UserError(f"--from_results={folder} keeps no study; name a folder that a run without this flag wrote.")
    return folder


def _prepared(chosen: dict[str, "Study"]) -> tuple[epath.Path, "Data"]:
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
        sst2_inputs.load() if "sst2" in chosen else None,
        lm.sources() if "s4" in chosen else None,
    )
    is_reference = FLAGS.preset == "full" and data.is_full
    folder = RESULTS if is_reference else epath.Path(FLAGS.workdir) / f"claims-{FLAGS.preset}"
    make_folder(folder)
    return folder, data


@dataclasses.dataclass(frozen=True)
class Study:
    """What runs and keeps its summaries, their names, what claims follow from them, and the entry that runs it alone."""

    run: Callable[[epath.Path, "Data"], object]
    kept: tuple[str, ...]
    claims_of: Callable[..., list[ledger.Claim]]
    entry: str
    figures: Any

    def claims(self, folder: epath.Path) -> list[ledger.Claim]:
        """None, and a line, where the study is not among what is kept."""
        if self.kept and not any((folder / name).is_dir() for name in self.kept):
            print(f"not in {folder}: {', '.join(self.kept)}")
            return []
        preset = FLAGS.preset if FLAGS.from_results is None else "full"
        command = f"python experiments/{self.entry} --preset={preset}"
        summaries = [_summary(folder / name / "summary.json") for name in self.kept]
        with understood(folder, "name a folder that a run without --from_results wrote"):
            return self.claims_of(*summaries, command)

    def redraw(self, folder: epath.Path) -> None:
        """The figures of what is kept, beside each summary."""
        for name in self.kept:
            if (folder / name).is_dir():
                summary = _summary(folder / name / "summary.json")
                with understood(folder, "name a folder that a run without --from_results wrote"):
                    for path in self.figures.draw(summary, folder / name):
                        print(f"figure: {path}")


def _summary(path: epath.Path) -> dict[str, Any]:
    try:
        return files.require_fields(files.read_json(path, error=UserError), str(path), {}, error=UserError)
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}; name a folder that a run without --from_results wrote.") from error


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """What the studies learn from; None where no study asks for it."""

    mnist: Mnist
    sentences: sst2_inputs.Inputs | None
    language: lm.Sources | None

    @property
    def is_full(self) -> bool:
        """Whether it is what a reference run takes: stand-ins are for trying things out."""
        sst2_is_full = self.sentences is None or self.sentences.data.is_full
        return self.mnist.is_full and sst2_is_full and (self.language is None or self.language.is_full)


def _keep(folder: epath.Path, name: str, summary: dict[str, Any], run_path: epath.Path) -> None:
    """The small files of a run that the repository keeps."""
    kept = folder / name
    make_folder(kept)
    write_json(kept / "summary.json", summary)
    drawn = [
        path for kind in style.FORMATS for path in run_path.glob(f"*.{kind}") if path.stem != "predictions"
    ]  # that shows MNIST itself
    copy([*drawn, run_path / "table.txt", run_path / "environment.json"], kept)


def _run(
    folder: epath.Path, name: str, settings, study, figures, data, *, keep_as: str | None = None
) -> dict[str, Any]:
    summary = main.execute(name, settings, study, figures, data=data)
    _keep(folder, keep_as or name, summary, main.run_folder(name, settings, data).path)
    return summary


def _linear(folder: epath.Path, data: Data) -> None:
    settings = main.settings_from_flags(linear.PRESETS)
    _run(folder, "linear_teacher", settings, lambda f: linear.summary(f, settings), linear_figures, None)


def _digit9(study: digit9.Settings, claims) -> Study:
    name = f"mnist_digit9_{study.study}"

    def run(folder: epath.Path, data: Data) -> None:
        settings = main.settings_from_flags(digit9.presets(study))
        _run(folder, name, settings, lambda f: digit9.run(f, settings, data.mnist), digit9_figures, data.mnist)

    return Study(run, (name,), claims, f"mnist_digit9.py --study={study.study}", digit9_figures)


def _sst2(folder: epath.Path, data: Data) -> None:
    """As it is, and LoRA with one learning rate for all ranks."""
    settings = main.settings_from_flags(sst2.PRESETS, control_seeds=FLAGS.seeds)
    inputs = data.sentences
    summary = _run(folder, "bert_sst2", settings, lambda f: sst2.run(f, settings, inputs), sst2_figures, inputs)
    one_rate = sst2.at_one_rate(settings, summary["tuning"]["LoRA"])
    _run(
        folder, "bert_sst2", one_rate, lambda f: sst2.run(f, one_rate, inputs), sst2_figures, inputs,
        keep_as="bert_sst2_one_rate",
    )  # fmt: skip


def _new_digits(folder: epath.Path, data: Data) -> None:
    settings = main.settings_from_flags(new_digits.PRESETS)

    def study(f):
        new_digits_jobs.pretrain(f, settings, data.mnist)
        return new_digits_jobs.finetune(f, settings, data.mnist)

    _run(folder, "mnist_new_digits", settings, study, new_digits_figures, data.mnist)


def _tiny_lm(folder: epath.Path, data: Data) -> None:
    settings = main.settings_from_flags(lm_study.PRESETS)
    summary = lm.execute("tiny_lm_study", settings, data.language)
    run_path = main.run_folder("tiny_lm_study", settings, data.language).path
    _keep(folder, "tiny_lm", summary, run_path)
    copy([run_path / lm_figures.OUTPUTS], folder)


def _rank(folder: epath.Path, data: Data) -> None:
    settings = main.settings_from_flags(rank_mnist.PRESETS)
    task = of_mnist(data.mnist)
    _run(folder, "rank_sweep_mnist", settings, lambda f: rank_mnist.run(f, settings, task), rank_figures, task)


def _best_rate(problem: str) -> Study:
    name = f"best_rate_{problem}"

    def run(folder: epath.Path, data: Data) -> None:
        settings = main.settings_from_flags(best_rate_settings.PRESETS[problem])
        mnist = data.mnist if problem == "mnist" else None
        _run(folder, name, settings, lambda f: best_rate.run(f, settings, mnist), best_rate_figures, mnist)

    return Study(
        run, (name,), best_rate_claims.of(problem), f"rate_against_rank.py --problem={problem}", best_rate_figures
    )


STUDIES = {
    "s0": _digit9(digit9.S0, digit9_claims.s0),
    "s1": _digit9(digit9.S1, digit9_claims.s1),
    "s2": Study(_linear, ("linear_teacher",), linear_claims.claims, "linear_teacher.py", linear_figures),
    "sst2": Study(
        _sst2, ("bert_sst2", "bert_sst2_one_rate"), sst2_claims.claims, "reproduce.py --only=sst2", sst2_figures
    ),
    "s3": Study(
        _new_digits, ("mnist_new_digits",), new_digits_claims.claims, "mnist_new_digits.py", new_digits_figures
    ),
    "s4": Study(_tiny_lm, ("tiny_lm",), lm_claims.claims, "tiny_lm.py --job=study", lm_figures),
    "rate": _best_rate("mnist"),
    "rate_linear": _best_rate("linear"),
    "rank": Study(_rank, ("rank_sweep_mnist",), rank_claims.claims, "rank_sweep.py", rank_figures),
}
