"""S2, part II: a BERT fine-tuned on SST-2 by its head alone, by LoRA at every rank, and in full.

Every regime, and every rank of LoRA, takes its learning rate from the tuning split (`tuning`), where each rate is trained as long as the
study trains: a shorter training favours higher rates. `at_one_rate` trains all ranks at the rate that they like best together. The validation
split is scored and never chooses. Head only trains on features of the frozen encoder, computed once: dropout acts where something trains, so
there on the head alone.
"""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lora_jax
from experiments.common import memory, tuning
from experiments.common.errors import UserError
from experiments.common.items import packed
from experiments.common.recording import RunFolder
from experiments.data import buckets as length_buckets
from experiments.data.sst2 import Texts
from experiments.sst2 import outcomes as outcomes_of
from experiments.sst2 import scaling, training, truncation, vocabulary
from experiments.sst2.inputs import Inputs
from experiments.sst2.settings import PRESETS as PRESETS
from experiments.sst2.settings import REFERENCE_RANK, Settings
from experiments.sst2.training import Outcome, Recipe, Task, train_group
from lora_jax import sweep
from lora_jax.models import bert, bert_folder
from lora_jax.tree import flat

TUNING_SEED = 1000  # the first


def run(folder: RunFolder, settings: Settings, inputs: Inputs) -> dict[str, Any]:
    """The whole study; returns its summary."""
    _require_memory(settings, inputs.base.folder)
    study = Study(folder, settings, inputs)
    before = jax.tree.map(np.asarray, study.base)
    tuned = {regime: study.tune(regime) for regime in settings.regimes}
    outcomes = {regime: study.train(regime, tuned[regime]) for regime in settings.regimes}
    rows = [row for outcome in outcomes.values() for row in outcomes_of.rows(outcome, study.size)]
    rules = study.scaling(outcomes.get("LoRA"), tuned.get("LoRA"))
    full = outcomes.get("full")
    cuts = (
        truncation.rows(study.task("full", "train", "validation"), full, settings.ranks)
        if full and settings.truncates
        else None
    )
    chex.assert_trees_all_equal(study.base, before)
    return {
        "rows": rows,
        "tuning": tuned,
        "paired": outcomes_of.paired(outcomes),
        "scaling": rules,
        "spectrum": outcomes_of.spectrum(study.base, full) if full else None,
        "truncated": cuts,
        "traces": {regime: outcome.traces for regime, outcome in outcomes.items()},
        "padding": length_buckets.waste(study.encoded["train"]),
        "left_out_of_an_epoch": length_buckets.left_out(
            [len(b.rows) for b in study.encoded["train"]], settings.batch_size, training.STEPS
        ),
        "updates": study.updates,
        "scored": len(study.scored.labels),
        "labels": packed([study.scored.labels])[0],  # with a row's "right", what each run said of each sentence
        "majority": float(max(np.mean(study.scored.labels), 1 - np.mean(study.scored.labels))),
        "new_parameters": study.new,
        "base_parameters": study.size,
        "base_unchanged": True,
        "data": inputs.record(),
    }


def _require_memory(settings: Settings, base: bert_folder.BertFolder) -> None:
    """UserError where the largest group surely does not fit; word embeddings are left out, for those that no sentence has are not trained."""
    whole = memory.bytes_of([leaf for path, leaf in flat(base.params["bert"]).items() if "word_embeddings" not in path])
    model, ids = bert.BertForSequenceClassification(base.config, num_labels=2), jnp.ones((1, 8), jnp.int32)
    for regime in settings.regimes:
        ranks = settings.ranks if regime == "LoRA" else (REFERENCE_RANK,)
        trained = 0 if regime == "head only" else whole
        if regime in training.TARGETS:
            config = lora_jax.LoRAConfig(rank=1, targets=training.TARGETS[regime])
            trained = memory.of_adapters(model, config, max(ranks), ids)
        rates = settings.rates(regime)
        members = len(ranks) * max(
            settings.seeds_of(regime), settings.tuning_seeds * len(rates) if len(rates) > 1 else 0
        )
        memory.require(
            memory.of_training(members, trained), f"training {members:,} models at once ({regime})", "give fewer --seeds or --ranks"
        )  # fmt: skip


def at_one_rate(settings: Settings, tuned: list[dict[str, Any]]) -> Settings:
    """Settings of a run of LoRA alone, every rank at the rate of the best mean over ranks; `tuned` as a run of these has it.

    One rate for all favours some rank, as the best rate falls with rank, and its own for each is a noisy choice: two views, none of them the truth.
    """
    best = settings.lora_rates[0]
    if len(settings.lora_rates) > 1:
        try:
            best = tuning.shared(tuned).best
        except ValueError:
            raise UserError("at every learning rate some rank of LoRA diverged; give lower --learning_rates.") from None
    return dataclasses.replace(settings, regimes=("LoRA",), lora_rates=(best,), scaling_seeds=0, fixed_alpha=True)


class Study:
    """The base, the sentences in buckets, and one method per part."""

    def __init__(self, folder: RunFolder, settings: Settings, inputs: Inputs):
        self.folder, self.settings = folder, settings
        found = inputs.base.folder.config
        config = found.with_dropout(settings.dropout)
        if max(settings.ranks) > config.hidden_size:
            raise UserError(
                f"--ranks: {max(settings.ranks)} is above {config.hidden_size}, the width of this BERT's query and value."
            )
        model = bert.BertForSequenceClassification(config, num_labels=2)
        loaded = {"bert": inputs.base.folder.params["bert"]}  # each member starts a classifier of its own
        base, self.new = bert_folder.initialised(model, jax.random.key(0), loaded)
        self.size = optax.tree.size(base)
        longest = min(settings.lengths[-1], config.max_position_embeddings)
        self._lengths = (*(n for n in settings.lengths if n < longest), longest)
        self._tokenizer = inputs.base.tokenizer
        self.scored = limited(inputs.data.validation, settings.score_limit)
        texts = {
            "train": limited(inputs.data.train, settings.train_limit),
            "scaling": limited(inputs.data.train, settings.scaling_limit),
            "tuning": limited(inputs.data.tuning, settings.score_limit),
            "validation": self.scored,
        }
        encoded = {name: self._encode(name, part) for name, part in texts.items()}
        used = np.unique(np.concatenate([b.input_ids.ravel() for part in encoded.values() for b in part] + [[0]]))
        self.encoded = {name: [vocabulary.renumbered(b, used) for b in part] for name, part in encoded.items()}
        self.model = model.clone(config=dataclasses.replace(config, vocab_size=len(used)))
        self.base = vocabulary.with_rows(base, used)
        self._on_device: dict[tuple[str, bool], list] = {}

    def _encode(self, name: str, texts: Texts) -> list[length_buckets.Bucket]:
        """What is only scored takes two lengths: it is little, and every length compiles a program."""
        if name not in ("train", "scaling"):
            return length_buckets.encode(self._tokenizer, texts, self._lengths[-2:])
        found = length_buckets.encode(self._tokenizer, texts, self._lengths)
        return length_buckets.merge_small(found, self.settings.batch_size, training.STEPS)

    @property
    def updates(self) -> int:
        """Steps of a run of the study."""
        sizes = [len(b.rows) for b in self.encoded["train"]]
        counts = length_buckets.piece_counts(sizes, self.settings.batch_size, training.STEPS)
        return self.settings.epochs * sum(counts) * training.STEPS

    def _buckets(self, name: str, features: bool) -> list[dict[str, jax.Array]]:
        if (name, features) not in self._on_device:
            buckets = training.on_device(self.encoded[name], rows=name == "validation")
            self._on_device[name, features] = training.features(self.model, self.base, buckets) if features else buckets
        return self._on_device[name, features]

    def task(self, regime: str, train: str, score: str) -> Task:
        """What a regime is trained on and measured by; of validation it is kept which sentences were right."""
        cached = regime == "head only"
        items = len(self.scored.labels) if score == "validation" else None
        return Task(self.model, self.base, self._buckets(train, cached), self._buckets(score, cached), cached, items)

    def _strategy(self, regime: str) -> str:
        """Heads on features are small products, which run together; a BERT fills the machine by itself."""
        if self.settings.strategy != "auto" or jax.default_backend() != "cpu":
            return self.settings.strategy
        return "vmap" if regime == "head only" else "sequential"

    def tune(self, regime: str) -> list[dict[str, Any]]:
        """Each rank's rate, out of runs as long as the study's, on the tuning split; one line per rank."""
        rates, seeds = self.settings.rates(regime), range(TUNING_SEED, TUNING_SEED + self.settings.tuning_seeds)
        if len(rates) == 1:
            return [tuning.untuned(rank, rates[0]) for rank in self._ranks(regime)]

        def scored(turn: int, cells: list[tuple[int, float]]) -> list[list[float | None]]:
            members = [self._member(regime, rank, rate, seed) for rank, rate in cells for seed in seeds]
            phase = f"tune {regime}" + (f", wider {turn}" if turn else "")
            scores = outcomes_of.scores(
                self._group(phase, regime, members, self.settings.recipe(blocks_per_epoch=1), score="tuning")
            )
            return [scores[i : i + len(seeds)] for i in range(0, len(scores), len(seeds))]

        return tuning.search(self._ranks(regime), rates, scored, self.settings.widenings, regime)

    def train(self, regime: str, tuned: list[dict[str, Any]]) -> Outcome:
        """Every rank and seed of a regime, in one group, each rank at its own learning rate."""
        rates = [(line["rank"], line["best"]) for line in tuned]
        members = [
            self._member(regime, rank, rate, seed)
            for rank, rate in rates
            for seed in range(self.settings.seeds_of(regime))
        ]
        outcome = self._group(regime, regime, members, self.settings.recipe(), score="validation")
        diverged = [member for member, good in zip(members, outcomes_of.finite(outcome), strict=True) if not good]
        if diverged:
            raise UserError(
                f"{regime} diverged at the learning rate {diverged[0].learning_rate:g}; give lower --learning_rates."
            )
        return outcome

    def _ranks(self, regime: str) -> tuple[int, ...]:
        if regime == "LoRA":
            return self.settings.ranks
        return (REFERENCE_RANK,) if regime == "LoRA all linear" else (0,)

    def _member(self, regime: str, rank: int, rate: float, seed: int) -> sweep.Member:
        return sweep.Member(rank, self.settings.scale if rank else None, rate, seed)

    def _group(self, phase: str, regime: str, members, recipe: Recipe, *, score: str, train: str = "train") -> Outcome:
        task = self.task(regime, train, score)
        return train_group(self.folder, phase, task, regime, members, recipe, self._strategy(regime))

    def scaling(self, lora: Outcome | None, tuned: list[dict[str, Any]] | None) -> dict[str, Any] | None:
        """Rules for alpha: in the setting of the study where `fixed_alpha` is asked for, else in the short one."""
        s = self.settings

        def group(phase: str, members, recipe: Recipe, train: str) -> Outcome:
            return self._group(phase, "LoRA", members, recipe, score="validation", train=train)

        if lora is None:
            return None
        if s.fixed_alpha:
            return scaling.whole(group, s, lora, tuned[0]["best"], sum(len(b.rows) for b in self.encoded["train"]))
        examples = sum(len(b.rows) for b in self.encoded["scaling"])
        return scaling.short(group, s, _at_reference(tuned), examples) if s.scaling_seeds else None


def _at_reference(tuned: list[dict[str, Any]]) -> float:
    """The rate of the rank that is nearest to where the scaling rules meet."""
    return min(tuned, key=lambda line: abs(line["rank"] - REFERENCE_RANK))["best"]


def limited(texts: Texts, limit: int | None) -> Texts:
    """A fixed sample of at most `limit` sentences."""
    if limit is None or limit >= len(texts.labels):
        return texts
    chosen = np.random.default_rng(0).permutation(len(texts.labels)) < limit
    return texts.where(chosen)
