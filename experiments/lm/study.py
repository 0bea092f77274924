"""S4: what LoRA and full fine-tuning make of a small language model, and whether LoRA could not, or was not tuned.

The original's setting as it was (square projections only, no alpha, one learning rate) beside a tuned LoRA (all linear
layers, alpha = 2 r) and a tuned full fine-tuning, each with a learning rate of its own from the tuning split; then the gap
between the tuned two against rank and against the model's size. Held-out questions are for reporting only.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lora_jax
from experiments.common import memory, projections
from experiments.common.errors import UserError
from experiments.common.rates import searched
from experiments.common.recording import RunFolder
from experiments.data.questions import Pair, Pairs
from experiments.lm import answers, outcomes, speaker, training
from experiments.lm import judge as lm_judge
from experiments.lm.settings import PRESETS as PRESETS
from experiments.lm.settings import Original as Original
from experiments.lm.settings import Settings
from experiments.lm.training import Outcome, Recipe, Task
from lora_jax import sweep

INSTRUCTIONS, MEDICAL = "instructions", "medical"
TUNING_SEED = 1000
JUDGED_LENGTH = 128  # tokens of a question with a candidate answer; longer ones are cut


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
    """What the study learns from: a base per size, rows of held-out general text for each, and two kinds of questions.

    `shown` are prompts whose answers the summary keeps for people to read; without any of a kind, held-out questions.
    """

    bases: Mapping[str, speaker.Base]
    general: Mapping[str, dict[str, np.ndarray]]
    pairs: Mapping[str, Pairs]
    shown: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def require_memory(settings: Settings) -> None:
    """UserError where the largest group surely does not fit: before bases are pretrained for it."""
    full, lora = [], []
    for size in settings.sizes:
        model, ids = settings.base(size).model(), jnp.ones((1, 8), jnp.int32)
        whole = memory.bytes_of(jax.eval_shape(model.init, jax.random.key(0), ids))
        rank = max(settings.ranks) if size == settings.size else settings.rank
        adapter = memory.of_adapters(model, lora_jax.LoRAConfig(rank=1, targets=training.LINEAR), rank, ids)
        full.append(memory.of_training(max(settings.seeds, len(settings.full_rates)), whole))
        lora.append(memory.of_training(max(settings.seeds, len(settings.lora_rates)), adapter))
    memory.require(max(full), f"full fine-tuning of {settings.seeds:,} models at once", "give fewer --seeds")
    memory.require(
        max(lora),
        f"training {settings.seeds:,} adapters of rank {max(settings.ranks):,} at once",
        "give fewer --seeds, or smaller --ranks",
    )


def run(folder: RunFolder, settings: Settings, material: Material) -> dict[str, Any]:
    """The whole study; returns its summary."""
    study = Study(folder, settings, material)
    base = material.bases[settings.size].params
    before = jax.tree.map(np.asarray, base)
    rows = [row for data in (INSTRUCTIONS, MEDICAL) for row in study.judged(data)]
    gaps = study.gaps()
    chex.assert_trees_all_equal(base, before)
    return {
        "rows": rows,
        "curves": study.curves,
        "gaps": gaps,
        "tuning": study.tuning,
        "outputs": study.outputs,
        "base_parameters": optax.tree.size(base),
        "base_unchanged": True,
        "questions": {name: study.about(name) for name in (INSTRUCTIONS, MEDICAL)},
    }


def ranks(folder: RunFolder, settings: Settings, material: Material) -> dict[str, Any]:
    """The gap alone: `rank_sweep.py --task=tiny_lm`."""
    study = Study(folder, settings, material)
    gaps = study.gaps()
    return {"rows": [], "gaps": gaps, "tuning": study.tuning, "questions": {INSTRUCTIONS: study.about(INSTRUCTIONS)}}


class Study:
    """A base per size, the questions encoded for it, and one method per part."""

    def __init__(self, folder: RunFolder, settings: Settings, material: Material):
        self.folder, self.settings, self.material = folder, settings, material
        self.tuning: list[dict[str, Any]] = []
        self.curves: list[dict[str, Any]] = []
        self.outputs: dict[str, Any] = {}
        self._parts = {name: self._split(name, pairs.pairs) for name, pairs in material.pairs.items()}
        self._encoded: dict[tuple[str, str, str], answers.Encoded] = {}
        self._tuned: dict[tuple[str, str, str, int], Outcome] = {}

    def _split(self, name: str, pairs: Sequence[Pair]) -> dict[str, tuple[Pair, ...]]:
        s = self.settings
        held_out, tuning, train = answers.split(pairs, (s.held_out, s.tuning, s.pairs))
        return {"held out": held_out, "tuning": tuning, "train": train}

    def encoded(self, size: str, data: str, part: str) -> answers.Encoded:
        """A part of the questions in the tokens of a size's base."""
        key = (size, data, part)
        if key not in self._encoded:
            tokenizer = self.material.bases[size].tokenizer
            self._encoded[key] = answers.encode(tokenizer, self._parts[data][part], self.settings.length)
        return self._encoded[key]

    def _rows(self, size: str, data: str, part: str) -> dict[str, jax.Array]:
        return jax.tree.map(jnp.asarray, answers.rows(self.encoded(size, data, part), self.settings.length))

    def about(self, data: str) -> dict[str, Any]:
        """Where the questions are from, and what was left out of them."""
        pairs, size = self.material.pairs[data], self.settings.size
        parts = {part: self.encoded(size, data, part) for part in ("train", "tuning", "held out")}
        return {
            "source": pairs.source,
            "sha256": pairs.checksum,
            "left_out": {**pairs.left_out, "too long": sum(part.too_long for part in parts.values())},
            **{part: len(found.pairs) for part, found in parts.items()},
        }

    # ---- what is judged

    def judged(self, data: str) -> list[dict[str, Any]]:
        """Rows of the base, of the original's LoRA, and of LoRA and full fine-tuning, tuned; all at the main size."""
        s, size = self.settings, self.settings.size
        judge, base_row = self._judge(data)
        rows = [base_row]
        for name, ranks, batch, epochs in self._originals(data):
            outcome = self._group(
                f"{data}, {name}", size, data, "LoRA", [self._member(rank, 1.0, s.original.rate, seed) for rank in ranks for seed in range(s.seeds)],
                batch=batch, epochs=epochs, decays=False, targets=projections.SQUARE, judge=judge,
            )  # fmt: skip
            rows += self._told(outcome, name, data, judge, batch)
        for regime, rank in (("LoRA", s.rank), ("full", 0)):
            name = f"tuned {regime}"
            outcome = self.tuned(size, data, regime, rank, judge)
            rows += self._told(outcome, name, data, judge, s.batch)
        return rows

    def _told(self, outcome: Outcome, name: str, data: str, judge: lm_judge.Judge, batch: int) -> list[dict[str, Any]]:
        """A treatment's rows; its curves and outputs are kept."""
        self.curves += outcomes.curves(outcome, name, data)
        self._keep_outputs(data, name, outcome)
        return outcomes.rows(outcome, name, data, judge.questions, batch)

    def _originals(self, data: str):
        """(name, ranks, batch, epochs measured) of the original's runs; medicine had one."""
        o = self.settings.original
        if data == MEDICAL:
            return [("original", o.ranks[:1], o.batch, o.small_epochs)]
        return [
            ("original", o.ranks, o.batch, o.epochs),
            (f"original, batch {o.small_batch}", o.ranks[:1], o.small_batch, o.small_epochs),
        ]

    def _judge(self, data: str) -> tuple[lm_judge.Judge, dict[str, Any]]:
        """The judge, and the row of the base, which it asks first."""
        size = self.settings.size
        base, held_out = self.material.bases[size], self.encoded(size, data, "held out")
        judge = lm_judge.Judge.of(base, held_out, self.settings.asked, min(JUDGED_LENGTH, self.settings.length))
        said = judge.outputs([base.params], None)[0]
        shown = self.material.shown.get(data, judge.questions)
        shown = [text for text in shown if speaker.has_room(base, text, judge.max_new_tokens)][: outcomes.SHOWN]
        self.outputs[data] = {"questions": shown, "tokens": judge.max_new_tokens, "said": {}}
        self._say(data, "base", speaker.Voice(base.params))
        losses = training.losses_of(
            base.model, base.params, self._follow(size, data), self._batch(size, data, self.settings.batch)
        )
        knows = lm_judge.discrimination_of(base.model, base.params, judge)
        return judge, outcomes.base_row(data, losses, knows, lm_judge.rates(judge.questions, said))

    def _keep_outputs(self, data: str, name: str, outcome: Outcome) -> None:
        """What the model of the first rank and seed says at the end."""
        through = None if outcome.model is self.material.bases[self.settings.size].model else outcome.model
        self._say(data, name, speaker.Voice(sweep.member_params(outcome.state, outcome.shared, 0), through))

    def _say(self, data: str, name: str, voice: speaker.Voice) -> None:
        found, base = self.outputs[data], self.material.bases[self.settings.size]
        found["said"][name] = speaker.outputs(base, voice, found["questions"], max_new_tokens=found["tokens"])

    # ---- what is trained

    def _member(self, rank: int, scale: float, rate: float, seed: int) -> sweep.Member:
        return sweep.Member(rank, scale if rank else None, rate, seed)

    def tuned(self, size: str, data: str, regime: str, rank: int, judge: lm_judge.Judge | None = None) -> Outcome:
        """All seeds, at the rate that the tuning split prefers (a single one is taken as it is); trained once, however often
        it is asked for."""
        key = (size, data, regime, rank)
        if key not in self._tuned:
            s = self.settings
            rates = s.lora_rates if regime == "LoRA" else s.full_rates
            label = f"{size} {data} {regime}" + (f" r={rank}" if rank else "")

            def losses_at(asked: Sequence[float]) -> list[float]:
                members = [self._member(rank, s.scale, rate, TUNING_SEED) for rate in asked]
                phase = f"tune {label} at {', '.join(f'{rate:g}' for rate in asked)}"
                tuning = self._group(phase, size, data, regime, members, epochs=(s.epochs,), score="tuning")
                return tuning.losses["answers"][-1].tolist()

            losses = None
            if len(rates) > 1:
                rates, losses = searched(rates, losses_at, s.widenings)
            line = outcomes.tuning_line(size, data, regime, rank, rates, losses)
            self.tuning.append(line)
            members = [self._member(rank, s.scale, line["best"], seed) for seed in range(s.seeds)]
            self._tuned[key] = self._group(
                label, size, data, regime, members, epochs=(1, s.epochs), follow_every=1, judge=judge
            )
            if not np.isfinite(self._tuned[key].losses["answers"]).all():
                raise UserError(
                    f"{label}: training diverged at the learning rate {line['best']:g}; give lower --learning_rates."
                )
        return self._tuned[key]

    def _group(
        self, phase: str, size: str, data: str, regime: str, members: list[sweep.Member], *, epochs: Sequence[int],
        follow_every: int = 5, batch: int | None = None, decays: bool = True, targets: tuple[str, ...] = training.LINEAR,
        judge: lm_judge.Judge | None = None, score: str = "held out",
    ) -> Outcome:  # fmt: skip
        base = self.material.bases[size]
        follow = self._follow(size, data) if score == "held out" else {"answers": self._rows(size, data, score)}
        task = Task(base.model, base.params, self._rows(size, data, "train"), follow, judge)
        rows = self._batch(size, data, batch or self.settings.batch)
        recipe = Recipe(max(epochs), rows, decays=decays, judged=tuple(epochs), follow_every=follow_every)
        return training.train_group(self.folder, phase, task, regime, members, recipe, targets=targets)

    def _follow(self, size: str, data: str) -> dict[str, dict[str, jax.Array]]:
        """Held-out answers, general text, and beside medicine the instructions' answers."""
        follow = {
            "answers": self._rows(size, data, "held out"),
            "general": jax.tree.map(jnp.asarray, self.material.general[size]),
        }
        if data != INSTRUCTIONS:
            follow[INSTRUCTIONS] = self._rows(size, INSTRUCTIONS, "held out")
        return follow

    def _batch(self, size: str, data: str, examples: int) -> int:
        """So many rows hold about that many examples."""
        encoded = self.encoded(size, data, "train")
        rows = len(answers.rows(encoded, self.settings.length)["ids"])
        return max(1, min(rows, round(examples * rows / len(encoded.examples))))

    # ---- the gap

    def gaps(self) -> list[dict[str, Any]]:
        """LoRA minus full, tuned both, seed by seed: at every rank of the main size, and at every size."""
        s = self.settings
        found = []
        for size in s.sizes:
            full = self.tuned(size, INSTRUCTIONS, "full", 0)
            for rank in s.ranks if size == s.size else (s.rank,):
                lora = self.tuned(size, INSTRUCTIONS, "LoRA", rank)
                found.append(outcomes.gap(size, rank, lora, full, self._parameters(size), self._bits(size)))
        return found

    def _parameters(self, size: str) -> int:
        return optax.tree.size(self.material.bases[size].params)

    def _bits(self, size: str) -> float:
        """Bits per byte of the held-out answers, for each nat per token: sizes differ in their tokens."""
        held_out = self.encoded(size, INSTRUCTIONS, "held out")
        tokens = sum(len(example.ids) - example.answer_at for example in held_out.examples)
        return tokens / sum(len(pair.answer.encode()) for pair in held_out.pairs) / float(np.log(2))
