"""S2, part II: a BERT fine-tuned on SST-2 by its head alone, by LoRA at every rank, and in full.

Every regime, and every rank of LoRA, takes its learning rate from the tuning split, each out of as many and trained as long
as the study trains: a shorter training favours higher rates. One run each is a noisy choice, so `at_one_rate` trains all ranks
at the rate that they like best together. The validation split is scored and never chooses. Head only trains on features of
the frozen encoder, computed once: dropout acts where something trains, so there on the head alone.
"""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lora_jax
from experiments.common import memory
from experiments.common.errors import UserError
from experiments.common.recording import RunFolder
from experiments.data import buckets as length_buckets
from experiments.data.sst2 import Texts
from experiments.sst2 import outcomes as outcomes_of
from experiments.sst2 import training
from experiments.sst2.inputs import Inputs
from experiments.sst2.settings import PRESETS as PRESETS
from experiments.sst2.settings import REFERENCE_RANK, Settings
from experiments.sst2.training import Outcome, Recipe, Task, train_group
from lora_jax import sweep
from lora_jax.models import bert, bert_folder
from lora_jax.tree import flat, nested

CONTROLS = ("from scratch", "LoRA all linear")


def run(folder: RunFolder, settings: Settings, inputs: Inputs) -> dict[str, Any]:
    """The whole study; returns its summary."""
    _require_memory(settings, inputs.base.folder)
    study = Study(folder, settings, inputs)
    before = jax.tree.map(np.asarray, study.base)
    tuned = {regime: study.tune(regime) for regime in settings.regimes}
    outcomes = {regime: study.train(regime, tuned[regime]) for regime in settings.regimes}
    rows = [row for outcome in outcomes.values() for row in outcomes_of.rows(outcome, study.size)]
    scales = "LoRA" in settings.regimes and settings.scaling_seeds
    scaling = study.scaling(_at_reference(tuned["LoRA"])) if scales else None
    chex.assert_trees_all_equal(study.base, before)
    return {
        "rows": rows,
        "tuning": tuned,
        "paired": outcomes_of.paired(outcomes),
        "scaling": scaling,
        "spectrum": outcomes_of.spectrum(study.base, outcomes["full"]) if "full" in outcomes else None,
        "traces": {regime: outcome.traces for regime, outcome in outcomes.items()},
        "padding": length_buckets.waste(study.encoded["train"]),
        "left_out_of_an_epoch": length_buckets.left_out(
            [len(b.rows) for b in study.encoded["train"]], settings.batch_size, training.STEPS
        ),
        "scored": len(study.scored.labels),
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
        seeds = settings.seeds if regime not in CONTROLS else min(settings.seeds, settings.control_seeds)
        members = len(ranks) * max(seeds, len(settings.rates(regime)))
        memory.require(
            memory.of_training(members, trained), f"training {members:,} models at once ({regime})", "give fewer --seeds or --ranks"
        )  # fmt: skip


def at_one_rate(settings: Settings, tuned: list[dict[str, Any]]) -> Settings:
    """Settings of a run of LoRA alone, every rank at the rate of the best mean over ranks; `tuned` as a run of these has it.

    With alpha = c r a rate means much the same at every rank; where all share it, a difference between ranks is one of rank.
    """
    best = settings.lora_rates[0]
    if len(settings.lora_rates) > 1:
        scores = [[line["accuracy"][str(rate)] for line in tuned] for rate in settings.lora_rates]
        means = [-1.0 if None in of_rate else float(np.mean(of_rate)) for of_rate in scores]  # None: diverged
        best = settings.lora_rates[int(np.argmax(means))]
        if max(means) < 0:
            raise UserError("at every learning rate some rank of LoRA diverged; give lower --learning_rates.")
    return dataclasses.replace(settings, regimes=("LoRA",), lora_rates=(best,), scaling_seeds=0)


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
        self.encoded = {name: [_renumbered(b, used) for b in part] for name, part in encoded.items()}
        self.model = model.clone(config=dataclasses.replace(config, vocab_size=len(used)))
        self.base = _with_rows(base, used)
        self._on_device: dict[tuple[str, bool], list] = {}

    def _encode(self, name: str, texts: Texts) -> list[length_buckets.Bucket]:
        """What is only scored takes two lengths: it is little, and every length compiles a program."""
        if name not in ("train", "scaling"):
            return length_buckets.encode(self._tokenizer, texts, self._lengths[-2:])
        found = length_buckets.encode(self._tokenizer, texts, self._lengths)
        return length_buckets.merge_small(found, self.settings.batch_size, training.STEPS)

    def _buckets(self, name: str, features: bool) -> list[dict[str, jax.Array]]:
        if (name, features) not in self._on_device:
            buckets = training.on_device(self.encoded[name])
            self._on_device[name, features] = training.features(self.model, self.base, buckets) if features else buckets
        return self._on_device[name, features]

    def _task(self, regime: str, train: str, score: str) -> Task:
        cached = regime == "head only"
        return Task(self.model, self.base, self._buckets(train, cached), self._buckets(score, cached), cached)

    def _strategy(self, regime: str) -> str:
        """Heads on features are small products, which run together; a BERT fills the machine by itself."""
        if self.settings.strategy != "auto" or jax.default_backend() != "cpu":
            return self.settings.strategy
        return "vmap" if regime == "head only" else "sequential"

    def tune(self, regime: str) -> list[dict[str, Any]]:
        """Each rate once at each rank, trained as long as the study trains, on the tuning split; one line per rank."""
        rates = self.settings.rates(regime)
        if len(rates) == 1:
            return [outcomes_of.untuned(rank, rates[0]) for rank in self._ranks(regime)]
        members = [self._member(regime, rank, rate, seed=1000) for rank in self._ranks(regime) for rate in rates]
        recipe = self.settings.recipe(blocks_per_epoch=1)
        outcome = self._group(f"tune {regime}", regime, members, recipe, score="tuning")
        scores = np.where(outcomes_of.finite(outcome), outcome.accuracy[-1], -1.0)  # a diverged one is never the best
        return [
            outcomes_of.tuned(regime, rank, rates, of_rank)
            for rank, of_rank in zip(self._ranks(regime), scores.reshape(-1, len(rates)).tolist(), strict=True)
        ]

    def train(self, regime: str, tuned: list[dict[str, Any]]) -> Outcome:
        """Every rank and seed of a regime, in one group, each rank at its own learning rate."""
        seeds = self.settings.seeds if regime not in CONTROLS else min(self.settings.seeds, self.settings.control_seeds)
        rates = [(line["rank"], line["best"]) for line in tuned]
        members = [self._member(regime, rank, rate, seed) for rank, rate in rates for seed in range(seeds)]
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
        task = self._task(regime, train, score)
        return train_group(self.folder, phase, task, regime, members, recipe, self._strategy(regime))

    def scaling(self, rate: float) -> dict[str, Any]:
        """Three rules of alpha x ranks x learning rates, on part of the data; the rules agree at the reference rank."""
        s = self.settings
        rules = {rule: {rank: scale_of(rule, rank, s.scale) for rank in s.ranks} for rule in RULES}
        rates = (rate / 3, rate, rate * 3)
        cells = sorted({(rank, scale) for scales in rules.values() for rank, scale in scales.items()})
        members = [
            sweep.Member(rank, scale, r, seed)
            for rank, scale in cells
            for r in rates
            for seed in range(s.scaling_seeds)
        ]
        recipe = s.recipe(epochs=s.scaling_epochs, blocks_per_epoch=1)
        outcome = self._group("scaling", "LoRA", members, recipe, score="validation", train="scaling")
        final = dict(zip(outcome.members, outcome.accuracy[-1].tolist(), strict=True))
        converged = dict(zip(outcome.members, outcomes_of.finite(outcome).tolist(), strict=True))
        rows = [
            {"rule": rule, "rank": rank, "scale": scale, "learning_rate": r,
             "accuracies": [final[sweep.Member(rank, scale, r, seed)] for seed in range(s.scaling_seeds)],
             "diverged": sum(not converged[sweep.Member(rank, scale, r, seed)] for seed in range(s.scaling_seeds))}
            for rule, scales in rules.items() for rank, scale in scales.items() for r in rates
        ]  # fmt: skip
        return {
            "rows": rows,
            "examples": sum(len(b.rows) for b in self.encoded["scaling"]),
            "epochs": s.scaling_epochs,
            "rates": rates,
        }


def _at_reference(tuned: list[dict[str, Any]]) -> float:
    """The rate of the rank that is nearest to where the scaling rules meet."""
    return min(tuned, key=lambda line: abs(line["rank"] - REFERENCE_RANK))["best"]


def _renumbered(bucket: length_buckets.Bucket, used: np.ndarray) -> length_buckets.Bucket:
    """Token ids as positions in `used`; padding stays 0."""
    return dataclasses.replace(bucket, input_ids=np.searchsorted(used, bucket.input_ids).astype(np.int32))


def _with_rows(base: dict[str, Any], used: np.ndarray) -> dict[str, Any]:
    """The base with the word embeddings of tokens in `used` alone: what no sentence has cannot change a result.

    It saves full fine-tuning most of its optimiser's work: SST-2 has half of BERT's vocabulary.
    """
    leaves = flat(base)
    path = "bert/embeddings/word_embeddings/embedding"
    return nested({**leaves, path: leaves[path][used]})


RULES = ("alpha = c r", "alpha fixed", "alpha/sqrt(r)")


def scale_of(rule: str, rank: int, c: float) -> float:
    """The update's scale: c under each rule at the reference rank."""
    return {
        "alpha = c r": c,
        "alpha fixed": c * REFERENCE_RANK / rank,
        "alpha/sqrt(r)": c * (REFERENCE_RANK / rank) ** 0.5,
    }[rule]


def limited(texts: Texts, limit: int | None) -> Texts:
    """A fixed sample of at most `limit` sentences."""
    if limit is None or limit >= len(texts.labels):
        return texts
    chosen = np.random.default_rng(0).permutation(len(texts.labels)) < limit
    return texts.where(chosen)
