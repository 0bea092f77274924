"""`tiny_lm.py --job=study`: S4."""

import dataclasses

from absl import flags
from etils import epath

from experiments.common import devices, main
from experiments.common.errors import UserError
from experiments.following import earlier, onto, runs
from experiments.following.settings import Settings, presets
from experiments.lm import runs as lm
from experiments.lm.command import OF_PRETRAINING

FLAGS = flags.FLAGS


def run() -> None:
    main.refuse([name for name in OF_PRETRAINING if name != "size"], "with --job=study; its presets say")
    whole = main.settings_from_flags(presets(FLAGS["size"].value))
    settings, has_medical = _of_sizes(_of_bases(_of_parts(whole))), "medical" in whole.parts
    if not has_medical:
        main.refuse(("medical",), f"with --preset={FLAGS.preset}, which has no part on medicine")
    found = lm.sources(medical=has_medical)
    devices.settle(with_cores=True)
    before = onto.read(epath.Path(FLAGS.onto), settings, found.record()) if FLAGS.onto else earlier.NONE
    runs.execute(runs.NAME, settings, found, whole=whole, before=before)


def _of_parts(settings: Settings) -> Settings:
    """Those of --parts, in the order of the preset.

    Raises:
      UserError: for one that the preset has not, and for lack of the first, whose rates and gate the others need.
    """
    chosen = main.chosen("parts") or settings.parts
    missing = [part for part in chosen if part not in settings.parts]
    if missing:
        raise UserError(
            f"--parts: this preset and size have no part {missing[0]!r}; they have {', '.join(settings.parts)}."
        )
    first = settings.parts[0]
    if first not in chosen:
        raise UserError(f"--parts: {first} is missing, which has the rates and the gate of all others; name it, too.")
    return dataclasses.replace(settings, parts=tuple(part for part in settings.parts if part in chosen))


def _of_bases(settings: Settings) -> Settings:
    """As many as --bases says.

    Raises:
      UserError: for more than the preset has.
    """
    bases = FLAGS.bases or settings.bases
    if bases > settings.bases:
        raise UserError(f"--bases={bases}: this preset and size have {settings.bases}.")
    return dataclasses.replace(settings, bases=bases, many_bases=min(bases, settings.many_bases))


def _of_sizes(settings: Settings) -> Settings:
    """Those of --sizes, in the order of the preset.

    Raises:
      UserError: for one that the preset has not, and where no part is of them.
    """
    chosen = main.chosen("sizes")
    if chosen is None:
        return settings
    if "sizes" not in settings.parts:
        main.refuse(("sizes",), "without --parts=...,sizes")
    if missing := [size for size in chosen if size not in settings.other_sizes]:
        raise UserError(f"--sizes: the part sizes has no {missing[0]}; it has {', '.join(settings.other_sizes)}.")
    return dataclasses.replace(settings, other_sizes=tuple(size for size in settings.other_sizes if size in chosen))
