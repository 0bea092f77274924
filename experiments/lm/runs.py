"""What the entries of S4 share: its text and questions by flags, and its bases pretrained."""

import contextlib
import dataclasses
import functools
from typing import Any

import tokenizers
from absl import flags

from experiments.common import main
from experiments.data import questions, text
from experiments.data.questions import Pairs
from experiments.lm import corpus as lm_text
from experiments.lm import docstrings, icd10, pretraining, pretraining_figures

FLAGS = flags.FLAGS
PRETRAINING = "tiny_lm_pretrain"
INSTRUCTIONS, MEDICAL = "instructions", "medical"


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
    pairs = {INSTRUCTIONS: instructions()}
    if medical:
        pairs[MEDICAL] = questions.read(FLAGS.medical, "--medical") if FLAGS.medical else icd10.questions()
    found = Sources(corpus(), pairs)
    for name, pairs in found.pairs.items():
        print(f"data: {name}, {len(pairs.pairs):,} pairs of {pairs.source}", flush=True)
    return found


def tokenizer(settings: pretraining.Settings, source: lm_text.Source) -> tokenizers.Tokenizer:
    """The one that a base is trained with, without the base."""
    folder = main.run_folder(PRETRAINING, settings, source)
    is_there = folder.read(pretraining.TOKENIZER) is not None  # then another process may train that base
    with contextlib.nullcontext() if is_there else folder.held():
        return pretraining.trained_tokenizer(folder, settings.model().config.vocab_size, source)


def pretrain(
    settings: pretraining.Settings, source: lm_text.Source, tokenizer: tokenizers.Tokenizer | None = None
) -> dict[str, Any]:
    """The summary of a base's run, which is trained unless it is there, with a given tokenizer or its own; "model" is its folder."""
    summary = main.execute(
        PRETRAINING, settings, lambda folder: pretraining.run(folder, settings, source, tokenizer), pretraining_figures, data=source
    )  # fmt: skip
    return summary | {"model": str(main.run_folder(PRETRAINING, settings, source).path / "model")}
