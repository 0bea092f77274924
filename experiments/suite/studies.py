"""Every study of the suite: what runs, what is kept of it, what claims follow."""

import dataclasses
import importlib.util
from typing import Any

from absl import flags
from etils import epath

from experiments.bert import base as bert_base
from experiments.bert import packaged
from experiments.best_rate import claims as best_rate_claims
from experiments.best_rate import figures as best_rate_figures
from experiments.best_rate import settings as best_rate_settings
from experiments.best_rate import study as best_rate
from experiments.common import main
from experiments.common.recording import copy
from experiments.data.mnist import Mnist
from experiments.digit9 import claims as digit9_claims
from experiments.digit9 import figures as digit9_figures
from experiments.digit9 import study as digit9
from experiments.finetune import base as finetune_base
from experiments.following import claims as following_claims
from experiments.following import figures as following_figures
from experiments.following import runs as following
from experiments.following.settings import PRESETS as OF_FOLLOWING
from experiments.linear import claims as linear_claims
from experiments.linear import figures as linear_figures
from experiments.linear import study as linear
from experiments.lm import runs as lm
from experiments.new_digits import claims as new_digits_claims
from experiments.new_digits import figures as new_digits_figures
from experiments.new_digits import jobs as new_digits_jobs
from experiments.new_digits import study as new_digits
from experiments.rank import claims as rank_claims
from experiments.rank import figures as rank_figures
from experiments.rank import study as rank_mnist
from experiments.rank.task import of_mnist
from experiments.smollm2 import claims as smollm2_claims
from experiments.smollm2 import command as smollm2
from experiments.smollm2 import figures as smollm2_figures
from experiments.smollm2.settings import PRESETS as OF_SMOLLM2
from experiments.sst2 import claims as sst2_claims
from experiments.sst2 import figures as sst2_figures
from experiments.sst2 import inputs as sst2_inputs
from experiments.sst2 import study as sst2
from experiments.sst2.settings import OF_MINILM
from experiments.suite.kept import Study, keep

FLAGS = flags.FLAGS


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


def _run(
    folder: epath.Path, name: str, settings, study, figures, data, *, keep_as: str | None = None
) -> dict[str, Any]:
    summary = main.execute(name, settings, study, figures, data=data)
    keep(folder, keep_as or name, summary, main.run_folder(name, settings, data).path)
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
    settings = main.settings_from_flags(sst2.PRESETS, **_all_seeds())
    inputs = data.sentences
    summary = _run(folder, "bert_sst2", settings, lambda f: sst2.run(f, settings, inputs), sst2_figures, inputs)
    one_rate = sst2.at_one_rate(settings, summary["tuning"]["LoRA"])
    _run(
        folder, "bert_sst2", one_rate, lambda f: sst2.run(f, one_rate, inputs), sst2_figures, inputs,
        keep_as="bert_sst2_one_rate",
    )  # fmt: skip


def _minilm(folder: epath.Path, data: Data) -> None:
    """The second base, where the package that carries it is installed."""
    if packaged.minilm() is None:
        print(f"minilm: left out, as the package that carries it is not installed: {packaged.INSTALL}", flush=True)
        return
    settings = main.settings_from_flags(OF_MINILM, **_all_seeds())
    inputs = dataclasses.replace(data.sentences, base=bert_base.load(bert_base.MINILM))
    _run(
        folder,
        "bert_sst2",
        settings,
        lambda f: sst2.run(f, settings, inputs),
        sst2_figures,
        inputs,
        keep_as="bert_sst2_minilm",
    )


def _all_seeds() -> dict[str, Any]:
    """Who asks for seeds means all of them."""
    return {"full_seeds": FLAGS.seeds, "control_seeds": FLAGS.seeds}


def _new_digits(folder: epath.Path, data: Data) -> None:
    settings = main.settings_from_flags(new_digits.PRESETS)

    def study(f):
        new_digits_jobs.pretrain(f, settings, data.mnist)
        return new_digits_jobs.finetune(f, settings, data.mnist)

    _run(folder, "mnist_new_digits", settings, study, new_digits_figures, data.mnist)


def _following(folder: epath.Path, data: Data) -> None:
    settings = main.settings_from_flags(OF_FOLLOWING)
    summary = following.execute(following.NAME, settings, data.language)
    keep_following(folder, summary, main.run_folder(following.NAME, settings, data.language).path)


def keep_following(folder: epath.Path, summary: dict[str, Any], run_path: epath.Path) -> None:
    """The small files of S4, and what its models say."""
    keep(folder, following.NAME, summary, run_path)
    copy([run_path / following_figures.OUTPUTS], folder / following.NAME)


def _smollm2(folder: epath.Path, data: Data) -> None:
    """Where the package that carries the model is installed."""
    if importlib.util.find_spec(finetune_base.PACKAGE) is None:
        print(f"smollm2: left out, as it comes with the {finetune_base.EXTRA}", flush=True)
        return
    settings = OF_SMOLLM2[FLAGS.preset]
    model = smollm2.loaded(settings)
    summary = smollm2.execute(settings, model)
    keep(folder, smollm2.NAME, summary, main.run_folder(smollm2.NAME, settings, model).path)


def _rank(folder: epath.Path, data: Data) -> None:
    settings = main.settings_from_flags(rank_mnist.PRESETS)
    task = of_mnist(data.mnist)
    _run(folder, "rank_sweep_mnist", settings, lambda f: rank_mnist.run(f, settings, task), rank_figures, task)


def _best_rate(problem: str) -> Study:
    name = f"best_rate_{problem}"

    def run(folder: epath.Path, data: Data) -> None:
        settings = main.settings_from_flags(best_rate_settings.PRESETS[problem])
        inputs = {"mnist": data.mnist, "sst2": data.sentences, "linear": None}[problem]
        _run(folder, name, settings, lambda f: best_rate.run(f, settings, inputs), best_rate_figures, inputs)

    return Study(
        run, (name,), best_rate_claims.of(problem), f"rate_against_rank.py --problem={problem}", best_rate_figures
    )


OF_SENTENCES = {"sst2", "minilm", "rate_sst2"}  # what needs the sentences of SST-2
STUDIES = {
    "s0": _digit9(digit9.S0, digit9_claims.s0),
    "s1": _digit9(digit9.S1, digit9_claims.s1),
    "s2": Study(_linear, ("linear_teacher",), linear_claims.claims, "linear_teacher.py", linear_figures),
    "sst2": Study(
        _sst2, ("bert_sst2", "bert_sst2_one_rate"), sst2_claims.claims, "reproduce.py --only=sst2", sst2_figures
    ),
    "minilm": Study(_minilm, ("bert_sst2_minilm",), sst2_claims.of_minilm, "reproduce.py --only=minilm", sst2_figures),
    "s3": Study(
        _new_digits, ("mnist_new_digits",), new_digits_claims.claims, "mnist_new_digits.py", new_digits_figures
    ),
    "s4": Study(_following, ("following",), following_claims.claims, "tiny_lm.py --job=study", following_figures),
    "smollm2": Study(_smollm2, (smollm2.NAME,), smollm2_claims.claims, "finetune_lm.py --job=compare", smollm2_figures),
    "rate": _best_rate("mnist"),
    "rate_linear": _best_rate("linear"),
    "rate_sst2": _best_rate("sst2"),
    "rank": Study(_rank, ("rank_sweep_mnist",), rank_claims.claims, "rank_sweep.py", rank_figures),
}
