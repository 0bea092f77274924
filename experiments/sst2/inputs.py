"""What the study learns from, and what the flags of `options` say of it."""

import dataclasses
from typing import Any

from absl import flags

from experiments.bert import base as bert_base
from experiments.common import devices, main
from experiments.data import sst2
from experiments.sst2.settings import OF_MINILM, PRESETS, Settings

FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """Sentences and the base: what a run depends on beside its settings."""

    data: sst2.Sst2
    base: bert_base.Base

    @property
    def checksum(self) -> str:
        return f"{self.data.checksum} {self.base.checksum}"

    def record(self) -> dict[str, Any]:
        return {**self.data.record(), "base": {"source": self.base.source, "sha256": self.base.checksum}}


def load(bert: str | None = None) -> Inputs:
    """SST-2 as --data_dir and --download say, and the base that `bert` names.

    The cores of a CPU become devices: a small BERT's products are too small to be cut over cores, its members are not.
    """
    devices.settle(with_cores=True)
    base = bert_base.load(bert)
    return Inputs(sst2.load(FLAGS.data_dir, download=FLAGS.download), base)


def presets() -> dict[str, Settings]:
    """Those of the base that --bert names: MiniLM has its own."""
    return OF_MINILM if FLAGS.bert == bert_base.MINILM else PRESETS


def chosen() -> dict[str, Any]:
    """What the flags of `define_bert` say of a study's settings."""
    return {
        "regimes": main.chosen("regimes"),
        "epochs": FLAGS.epochs,
        "train_limit": FLAGS.train_limit,
        "dropout": FLAGS.dropout,
        "full_seeds": FLAGS.seeds,  # who asks for seeds means all of them
        "control_seeds": FLAGS.seeds,
    }
