"""Settings of S4."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from experiments.common.errors import UserError
from experiments.lm import pretraining_settings

VOCABULARY = 3200  # one tokenizer for all sizes
BATCH = 7  # rows of 128 tokens, which hold about 32 items: the study's batch
SMALL_BATCH = 2  # about 8 items
LARGE = "26M"  # a study of its own, of one base, for an accelerator
TEXT = {
    "0.3M": 780_000,
    "1M": 3_000_000,
    "3M": 7_800_000,
    LARGE: 40_000_000,
}  # tokens, of each size about 2.6 a parameter; LARGE: all there are
PARTS = ("arms", "others", "study", "batch", "longer", "open", "medical", "converged", "doses", "control", "sizes")
NO_COPYING = "no copying"  # a base that was shown nothing said again
PRETRAINING = pretraining_settings.Settings(
    size="1M", length=128, batch_size=16, tokens=TEXT["1M"], held_out_tokens=100_000, vocab_size=VOCABULARY,
    list_steps=700, lists=0.1, dialogues=0.15,
)  # fmt: skip


OF_A_RUN = ("parts", "bases", "many_bases", "other_sizes")  # settings in which runs of one study differ


@dataclasses.dataclass(frozen=True)
class Settings:
    """`bases` of `size` are pretrained, each with a seed of its own, and one of each of `other_sizes`; LoRA r = 8 and full fine-tuning teach each
    with `seeds`, the other arms with one, or with as many where there are no `controls`.

    `items` are learned from; `tuning` choose rates, by runs of `tuning_steps`, and are followed; `held_out` of each kind are measured. `steps` are
    of every arm but the study's own, which sees the items as often as the first two of `epochs` say, as often as all of them on the first
    `many_bases` alone; `long_steps` are for the arms that are trained until the tuning items gain no more, `dose_steps` for those that learn some
    kinds alone. `parts` are those of PARTS that are run; without `controls` the arms are LoRA and full fine-tuning alone. Where `ships` the only
    base is the one that lies in the repository.
    """

    pretraining: pretraining_settings.Settings = PRETRAINING
    parts: tuple[str, ...] = PARTS
    controls: bool = True
    ships: bool = False
    size: str = "1M"
    other_sizes: tuple[str, ...] = ("0.3M", "3M")
    bases: int = 5
    seeds: int = 2
    items: int = 20_000
    tuning: int = 460
    held_out: int = 100  # of each kind
    general_rows: int = 64
    length: int = 128
    steps: int = 2000
    tuning_steps: int = 1000
    long_steps: int = 4000
    dose_steps: int = 1000
    ranks: tuple[int, ...] = (1, 4, 8, 16, 64)
    tuning_seeds: int = 2
    widenings: int = 3
    lora_rates: tuple[float, ...] = (3.1e-3, 5.6e-3, 1e-2)
    full_rates: tuple[float, ...] = (5.6e-4, 1e-3, 1.8e-3)
    epochs: tuple[int, ...] = (1, 10, 50)
    many_bases: int = 2
    study_ranks: tuple[int, ...] = (8, 16)
    doses: tuple[int, ...] = (3, 7, 13, 23)  # kinds taught at once
    dose_ranks: tuple[int, ...] = (1, 4, 16)
    open_pairs: int = 8000
    open_held_out: int = 1000
    open_steps: int = 800
    prompts: int = 500

    def __post_init__(self):
        if self.seeds * self.bases < 2:
            raise UserError(
                f"--seeds={self.seeds}: of {self.bases} base that is one run, and a verdict needs at least two; name more seeds."
            )

    def base(self, size: str, seed: int) -> pretraining_settings.Settings:
        """How a base is pretrained: on as many tokens a parameter, whatever its size; NO_COPYING is the size of the study, in as many updates."""
        own = self.pretraining
        if size == NO_COPYING:
            tokens = own.tokens + own.list_steps * own.batch_size * own.length
            return dataclasses.replace(
                own, size=self.size, seed=seed, tokens=tokens, list_steps=0, lists=0.0, copies=False
            )
        return dataclasses.replace(own, size=size, seed=seed, tokens=own.tokens * TEXT[size] // TEXT[self.size])


PRESETS = {
    "smoke": Settings(
        dataclasses.replace(PRETRAINING, size="0.3M", tokens=TEXT["0.3M"] // 10, list_steps=10, held_out_tokens=10_000, vocab_size=1600),
        parts=("arms", "study"), controls=False, size="0.3M", other_sizes=(), bases=2, seeds=1, items=460, tuning=46, held_out=4, general_rows=4,
        steps=16, ranks=(8,), lora_rates=(1e-2,), full_rates=(2e-3,), epochs=(1,), study_ranks=(8,), prompts=4,
    ),
    "quick": Settings(
        parts=("arms", "study"), controls=False, ships=True, other_sizes=(), bases=1, seeds=2, items=12_000, held_out=40, steps=900, ranks=(8,),
        lora_rates=(1e-2,), full_rates=(2e-3,), epochs=(1,), study_ranks=(8,), prompts=60,
    ),
    "full": Settings(),
}  # fmt: skip
_LARGE = dataclasses.replace(
    PRESETS["full"],
    pretraining=dataclasses.replace(PRETRAINING, size=LARGE, tokens=TEXT[LARGE], epochs=2, batch_size=64, dtype="bfloat16"),
    parts=("arms", "study", "open"), controls=False, size=LARGE, other_sizes=(), bases=1, ranks=(8,), tuning_seeds=1, widenings=1,
    lora_rates=(1e-3, 1.8e-3, 3.2e-3), full_rates=(1e-4, 1.8e-4, 3.2e-4), epochs=(1, 10), study_ranks=(8,), prompts=100,
)  # fmt: skip
PRESETS_OF_LARGE = {
    "smoke": dataclasses.replace(PRESETS["smoke"], parts=("arms",), bases=1, seeds=2),
    "quick": dataclasses.replace(  # a few minutes of a large GPU, most of them its compiler's
        _LARGE, parts=("arms", "study"), tuning_steps=700, epochs=(1,), full_rates=(1.8e-4, 3.2e-4, 5.6e-4), prompts=60
    ),
    "full": _LARGE,
}  # fmt: skip


def flags_of(settings: Mapping[str, Any]) -> str:
    """The flags beside --preset of a run with these settings, as a summary has them: its parts, bases and other sizes where the preset has others.

    >>> flags_of(as_kept(dataclasses.replace(PRESETS["full"], parts=("arms", "study"), bases=3)))
    '--parts=arms,study --bases=3'
    >>> flags_of(as_kept(dataclasses.replace(PRESETS["full"], parts=("arms", "sizes"), other_sizes=("0.3M",))))
    '--parts=arms,sizes --sizes=0.3M'
    >>> flags_of(as_kept(PRESETS["quick"]))
    ''
    """
    for whole in map(as_kept, PRESETS.values()):
        other = {name for name, value in whole.items() if settings.get(name) != value}
        if other <= set(OF_A_RUN):
            sizes = settings["other_sizes"] if "sizes" in settings["parts"] else whole["other_sizes"]
            told = {"parts": settings["parts"], "bases": settings["bases"], "sizes": sizes}
            usual = {"parts": whole["parts"], "bases": whole["bases"], "sizes": whole["other_sizes"]}
            return " ".join(f"--{name}={_flag(value)}" for name, value in told.items() if value != usual[name])
    return ""


def _flag(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def as_kept(settings: Settings) -> dict[str, Any]:
    """As they are read again from a summary."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def presets(size: str | None) -> dict[str, Settings]:
    """Of the study of 1 M, or of LARGE.

    Raises:
      UserError: for another size.
    """
    found = {None: PRESETS, "1M": PRESETS, LARGE: PRESETS_OF_LARGE}
    if size not in found:
        raise UserError(
            f"--size={size}: --job=study is of 1M or {LARGE}; bases of other sizes are a part of that of 1M."
        )
    return found[size]
