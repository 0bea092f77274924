"""What the entries of S4 share: its text and questions by flags, its bases pretrained, its study run."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import tokenizers
from absl import flags

from experiments.common import devices, main
from experiments.common.errors import UserError
from experiments.data import packing, questions, text
from experiments.data.questions import Pairs
from experiments.lm import corpus as lm_text
from experiments.lm import docstrings, figures, icd10, pretraining, pretraining_figures, prompts, speaker
from experiments.lm import study as lm_study

FLAGS = flags.FLAGS
PRETRAINING = "tiny_lm_pretrain"


def corpus() -> lm_text.Source:
    """As --corpus says."""
    if FLAGS.corpus:
        text.require(FLAGS.corpus)
    return lm_text.Source(tuple(FLAGS.corpus or ()), FLAGS.field)


def instructions() -> Pairs:
    """As --questions says."""
    return questions.read(FLAGS.questions) if FLAGS.questions else docstrings.questions()


@dataclasses.dataclass(frozen=True, eq=False)
class Sources:
    """Text for the bases, and questions of both kinds."""

    corpus: lm_text.Source
    pairs: dict[str, Pairs]

    @functools.cached_property
    def checksum(self) -> str:
        return " ".join([self.corpus.checksum, *(pairs.checksum for pairs in self.pairs.values())])

    @property
    def is_full(self) -> bool:
        """Whether all of it was named: what every machine has is for trying things out."""
        return bool(FLAGS.corpus and FLAGS.questions and FLAGS.medical)

    def record(self) -> dict[str, Any]:
        """What a summary says about it."""
        return {"corpus": self.corpus.record()} | {name: pairs.source for name, pairs in self.pairs.items()}


def sources(*, medical: bool = True) -> Sources:
    """What the flags name, else what is installed; prints a line for each kind of questions."""
    pairs = {lm_study.INSTRUCTIONS: instructions()}
    if medical:
        pairs[lm_study.MEDICAL] = questions.read(FLAGS.medical, "--medical") if FLAGS.medical else icd10.questions()
    found = Sources(corpus(), pairs)
    for name, pairs in found.pairs.items():
        print(f"data: {name}, {len(pairs.pairs):,} pairs of {pairs.source}", flush=True)
    return found


def pretrain(
    settings: pretraining.Settings, source: lm_text.Source, tokenizer: tokenizers.Tokenizer | None = None
) -> dict[str, Any]:
    """The summary of a base's run, which is trained unless it is there, with a given tokenizer or its own; "model" is its folder."""
    summary = main.execute(
        PRETRAINING, settings, lambda folder: pretraining.run(folder, settings, source, tokenizer), pretraining_figures, data=source
    )  # fmt: skip
    return summary | {"model": str(main.run_folder(PRETRAINING, settings, source).path / "model")}


def execute(name: str, settings: lm_study.Settings, found: Sources, study: Callable = lm_study.run) -> dict[str, Any]:
    """Pretrains what is missing of the bases, then runs the study."""
    devices.settle(with_cores=True)
    if main.finished(name, settings, found) is None:
        lm_study.require_memory(settings)
    pretrained = {size: pretrain(settings.base(size), found.corpus) for size in settings.sizes}
    bases = {size: speaker.load(summary["model"], weights=summary["weights"]) for size, summary in pretrained.items()}
    general = {size: _general(base, settings, found.corpus) for size, base in bases.items()}
    material = lm_study.Material(bases, general, found.pairs, _shown())
    about = {size: _of_base(summary) for size, summary in pretrained.items()}
    return main.execute(
        name, settings, lambda folder: study(folder, settings, material) | {"bases": about}, figures, data=found
    )


def _shown() -> dict[str, tuple[str, ...]]:
    """Prompts of ours where the questions are a user's file, whose text is not ours to show."""
    ours = {
        lm_study.INSTRUCTIONS: (FLAGS.questions, prompts.INSTRUCTIONS),
        lm_study.MEDICAL: (FLAGS.medical, prompts.MEDICAL),
    }
    return {name: shown for name, (is_file, shown) in ours.items() if is_file}


def _of_base(summary: dict[str, Any]) -> dict[str, Any]:
    names = ("held_out_loss", "trigram_loss", "bits_per_byte", "parameters", "train_tokens", "share_waiting_for_data")
    return {name: summary[name] for name in names}


def _general(base: speaker.Base, settings: lm_study.Settings, source: lm_text.Source) -> dict[str, Any]:
    """The first rows of the text that was held out of pretraining."""
    rows = lm_text.encode(base.tokenizer, source.split()[1], settings.length)
    if not len(rows.ids):
        raise UserError(f"the corpus is too short: what is held out of it fills no row of {settings.length} tokens.")
    return jax.tree.map(lambda leaf: leaf[: settings.general_rows], packing.gathered(rows))
