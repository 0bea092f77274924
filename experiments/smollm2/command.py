"""`finetune_lm.py --job=compare`: S4's over-parameterised end."""

import dataclasses
from typing import Any

from absl import flags

from experiments.common import devices, main
from experiments.finetune import base as finetune_base
from experiments.finetune.base import Base
from experiments.finetune.command import OF_DATA, OF_TRAINING
from experiments.finetune.options import SAMPLING_FLAGS
from experiments.smollm2 import figures, study
from experiments.smollm2.settings import PRESETS, Settings

FLAGS = flags.FLAGS
NAME = "smollm2"


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """The pretrained model: what a run depends on beside its settings."""

    base: Base

    @property
    def checksum(self) -> str:
        return self.base.checksum

    def record(self) -> dict[str, Any]:
        return {"model": self.base.given, "name": self.base.name, "sha256": self.base.checksum}


def execute(settings: Settings, data: Data) -> dict[str, Any]:
    """The summary."""
    return main.execute(NAME, settings, lambda folder: study.run(folder, settings, data.base), figures, data=data)


def loaded(settings: Settings, name: str | None = None) -> Data:
    """The model that is named, by default SmolLM2."""
    return Data(finetune_base.load(name, dtype=settings.dtype, param_dtype=settings.param_dtype))


def run() -> None:
    main.refuse(
        ("adapter", "out", "system", "max_new_tokens", "seeds", *OF_TRAINING, *OF_DATA, *SAMPLING_FLAGS),
        "with --job=compare, whose presets say",
    )
    given = {name: FLAGS[name].value for name in ("dtype", "param_dtype") if FLAGS[name].value is not None}
    settings = dataclasses.replace(PRESETS[FLAGS.preset], **given)
    devices.settle()
    execute(settings, loaded(settings, FLAGS.model))
