"""How does the best learning rate move with the rank? Ranks x rules for the scale x rates x seeds, for two lengths of training.

Members of one seed are one program: they share its base, its batches and its data, and differ in numbers alone. Letters: M members, S seeds,
R rates.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lora_jax
from experiments.best_rate import problems, vertex
from experiments.best_rate.problems import Problem
from experiments.best_rate.settings import HORIZONS, RULES, STEP, Settings, rate
from experiments.common import devices, memory, phases
from experiments.common.pretraining import order_key
from experiments.common.recording import RunFolder, slug
from experiments.common.statistics import bootstrap, estimate
from experiments.data.mnist import Mnist
from experiments.sst2.inputs import Inputs
from lora_jax import sweep

FULL = "full"
EVALUATION_BATCH = 1000
Cell = tuple[str, int]  # rule and rank; ("full", 0) for full fine-tuning of the same kernels
Losses = dict[Cell, dict[int, dict[str, list[float]]]]  # cell -> power of the rate -> {"tuning", "test"} -> one a seed


def run(folder: RunFolder, settings: Settings, data: Mnist | Inputs | None) -> dict[str, Any]:
    """Trains everything, checks that no base moved; returns the summary. `data` is what the problem of the settings learns from."""
    problem = _problem(folder, settings, data)
    before = jax.tree.map(np.asarray, problem.bases)
    memory.require(
        _needed(settings, problem), "training all ranks, rules and rates of a seed at once", "give fewer --ranks"
    )
    found = {horizon: _horizon(folder, settings, problem, horizon) for horizon in HORIZONS}
    chex.assert_trees_all_equal(problem.bases, before)
    return {
        "cells": [row for horizon, losses in found.items() for row in _cells(horizon, losses)],
        "exponents": [row for horizon, losses in found.items() for row in _exponents(settings, horizon, losses)],
        "base_unchanged": True,
        "data": data.record() if data else {"source": "a linear teacher"},
    }


def _problem(folder: RunFolder, settings: Settings, data: Mnist | Inputs | None) -> Problem:
    if settings.problem == "linear":
        return problems.linear(settings)
    return {"mnist": problems.mnist, "sst2": problems.sst2}[settings.problem](folder, settings, data)


def _needed(settings: Settings, problem: Problem) -> int:
    """Bytes, at least, of one seed's adapters."""
    config = lora_jax.LoRAConfig(rank=1, targets=problem.targets)
    factors = memory.of_adapters(problem.model, config, max(settings.ranks), problem.example)
    return memory.of_training(len(settings.ranks) * len(RULES) * settings.window, factors)


def _horizon(folder: RunFolder, settings: Settings, problem: Problem, horizon: str) -> Losses:
    """The losses of every cell, windows widened until the best rate is inside of each, of the mean and of every seed."""
    adapters = [(rule, rank) for rule in RULES for rank in settings.ranks]
    asked: dict[Cell, Sequence[int]] = {cell: _window(settings, cell) for cell in adapters}
    full = {
        (FULL, 0): range(settings.full_centre - settings.window // 2, settings.full_centre + (settings.window + 1) // 2)
    }
    losses: Losses = {}
    for round_ in range(settings.rounds + 1):
        for kind, wanted in ((FULL, full), ("LoRA", asked)):
            if wanted:
                _add(losses, _train(folder, settings, problem, wanted, f"{horizon} {kind} {round_}", horizon))
        beyond = _beyond(losses, settings.window // 3)
        asked = {cell: powers for cell, powers in beyond.items() if cell[0] != FULL}
        full = {cell: powers for cell, powers in beyond.items() if cell[0] == FULL}
        if not asked and not full:
            break
    return losses


def _window(settings: Settings, cell: Cell) -> range:
    first = settings.first(*cell)
    return range(first, first + settings.window)


def _add(losses: Losses, more: Losses) -> None:
    for cell, by_power in more.items():
        losses.setdefault(cell, {}).update(by_power)


def _beyond(losses: Losses, count: int) -> dict[Cell, list[int]]:
    """`count` rates outwards of each window whose best is at its edge, or one from it; and of one that has a single seed's best at its edge."""
    found = {}
    for cell, by_power in losses.items():
        powers, mean = _curve(by_power)
        at, last = powers.index(round(vertex.best(powers, mean)[0])), len(powers) - 1
        seeds = range(len(by_power[powers[0]]["tuning"]))
        of_seeds = {vertex.best(*_curve(by_power, [seed]))[0] for seed in seeds}
        is_low, is_high = at <= 1, 1 < at >= last - 1
        below = range(powers[0] - count, powers[0]) if is_low or powers[0] in of_seeds else ()
        above = range(powers[-1] + 1, powers[-1] + 1 + count) if is_high or powers[-1] in of_seeds else ()
        if below or above:
            found[cell] = [*below, *above]
    return found


def _curve(
    by_power: dict[int, dict[str, list[float]]], seeds: list[int] | None = None
) -> tuple[list[int], list[float]]:
    """(powers, ascending; the tuning loss of each, averaged over seeds)."""
    powers = sorted(by_power)
    return powers, [
        float(np.mean(np.asarray(by_power[power]["tuning"])[seeds if seeds is not None else slice(None)]))
        for power in powers
    ]


def _train(
    folder, settings: Settings, problem: Problem, wanted: dict[Cell, Sequence[int]], phase: str, horizon: str
) -> Losses:
    """Each seed's members in turn, by one compiled program."""
    each = [(cell, power) for cell, powers in wanted.items() for power in powers]
    program = _Program(folder, settings, problem, each, horizon)
    by_seed = [program.run(f"{phase} seed {seed}", seed) for seed in range(settings.seeds)]
    found: Losses = {}
    for i, (cell, power) in enumerate(each):
        least = problem.least(cell[1])
        found.setdefault(cell, {})[power] = {
            name: [float(scores[name][i]) - least for scores in by_seed] for name in ("tuning", "test")
        }
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class _Program:
    """The members of one seed, trained and scored."""

    folder: RunFolder
    settings: Settings
    problem: Problem
    each: list[tuple[Cell, int]]
    horizon: str

    @property
    def steps(self) -> int:
        return self.settings.steps[HORIZONS.index(self.horizon)]

    @property
    def is_full(self) -> bool:
        return self.each[0][0][0] == FULL

    @functools.cached_property
    def model(self):
        config = lora_jax.LoRAConfig(rank=1, scaling="constant", targets=self.problem.targets)
        return self.problem.model if self.is_full else lora_jax.LoRA(self.problem.model, config)

    @functools.cached_property
    def trainer(self) -> sweep.Sweep:
        return sweep.Sweep(self.problem.loss(self.model), self._optimizer, self.settings.strategy, devices.mesh())

    @functools.cached_property
    def evaluate(self):
        return self.trainer.evaluation(self.problem.score(self.model), min(EVALUATION_BATCH, self.settings.scored))

    def _optimizer(self, learning_rate: jax.Array):
        """Adam, its rate falling to zero in a line."""
        return optax.adam(optax.linear_schedule(learning_rate, 0.0, self.steps))

    def run(self, phase: str, seed: int) -> dict[str, np.ndarray]:
        """{"tuning", "test"}: the mean loss of each member, [M]; infinite where training diverged."""
        base = jax.tree.map(lambda leaf: leaf[seed], self.problem.bases)
        state, shared = self._start(base, seed)
        sets = self.problem.sets(seed)
        state, _ = phases.train(
            self.folder, slug(phase), self.trainer, state, shared, sets["train"],
            order=lambda block: self._order(seed, len(sets["train"]["y"])), blocks=1,
        )  # fmt: skip
        return {name: np.asarray(self._score(state, shared, sets[name])) for name in ("tuning", "test")}

    def _start(self, base: Any, seed: int):
        if self.is_full:
            mask = lora_jax.trainable_mask(base, train=self.problem.kernels)
            stacked = sweep.broadcast(base, len(self.each))
            rates = [rate(power) for _, power in self.each]
            return self.trainer.start(stacked, mask, learning_rates=rates, seeds=[seed] * len(rates), padded=False), {}
        members = [
            sweep.Member(rank, self.settings.scale_of(rule, rank), rate(power), seed)
            for (rule, rank), power in self.each
        ]
        stacked = sweep.init_adapters(self.model, members, self.problem.example)
        return self.trainer.start(stacked, lora_jax.trainable_mask(stacked), members=members), base

    def _order(self, seed: int, size: int) -> jax.Array:
        shape = (self.steps, min(self.settings.batch_size, size))
        if size <= self.settings.batch_size:
            return jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), shape)
        return jax.random.randint(order_key(jnp.uint32(seed)), shape, 0, size, jnp.int32)

    def _score(self, state, shared, examples) -> jax.Array:
        loss = self.evaluate(state, shared, examples)["loss"] / len(examples["y"])
        return jnp.where(jnp.isfinite(loss), loss, jnp.inf)


def _cells(horizon: str, losses: Losses) -> list[dict[str, Any]]:
    """A row a cell: every rate and the losses of every seed there; the best rate, and the loss that it gives."""
    rows = []
    for (rule, rank), by_power in losses.items():
        powers, mean = _curve(by_power)
        power, is_edge = vertex.best(powers, mean)
        at_best = by_power[powers[int(np.argmin(mean))]]["test"]
        rows.append({
            "horizon": horizon, "rule": rule, "rank": rank or None, "rates": [rate(p) for p in powers],
            "best_rate": rate(0) * STEP**power, "rate_at_edge": is_edge,
            "rate_is_flat": vertex.is_flat(mean), "test_loss": estimate(at_best),
            "by_seed": {
                "test_loss": at_best,
                "tuning_losses": [[by_power[p]["tuning"][seed] for p in powers] for seed in range(len(at_best))],
                "test_losses": [[by_power[p]["test"][seed] for p in powers] for seed in range(len(at_best))],
            },
        })  # fmt: skip
    return rows


def _exponents(settings: Settings, horizon: str, losses: Losses) -> list[dict[str, Any]]:
    """A row a rule: e of best rate ~ rank^e, per seed and over resampled seeds; the loss at one rate that all ranks share; LoRA's over full's."""
    return [_exponent(settings, horizon, losses, rule) for rule in RULES]


def _exponent(settings: Settings, horizon: str, losses: Losses, rule: str) -> dict[str, Any]:
    ranks = settings.ranks

    def of(seeds) -> float:
        return vertex.exponent(ranks, [vertex.best(*_curve(losses[rule, rank], seeds))[0] for rank in ranks], STEP)

    def ratio(rank: int, seed: int) -> float:
        ours, full = (vertex.best(*_curve(losses[cell], [seed]))[0] for cell in ((rule, rank), (FULL, 0)))
        return float(STEP ** (ours - full))

    by_seed = [of([seed]) for seed in range(settings.seeds)]
    shared = _shared(losses, rule, ranks)
    return {
        "horizon": horizon, "rule": rule, "exponent": estimate(by_seed),
        "pooled": bootstrap(lambda rows: np.apply_along_axis(lambda row: of(row.tolist()), -1, rows), settings.seeds, resamples=500),
        "shared_rate": None if shared is None else rate(shared),
        "ratio_to_full": {str(rank): estimate([ratio(rank, seed) for seed in range(settings.seeds)]) for rank in ranks},
        "by_seed": {
            "exponent": by_seed,
            "ratio_to_full": {str(rank): [ratio(rank, seed) for seed in range(settings.seeds)] for rank in ranks},
            "test_loss_at_shared_rate": None if shared is None else {str(rank): losses[rule, rank][shared]["test"] for rank in ranks},
        },
    }  # fmt: skip


def _shared(losses: Losses, rule: str, ranks) -> int | None:
    """The power whose rate is best for all ranks together, by the mean of log losses; None where no rate was tried at all of them."""
    common = sorted(set.intersection(*(set(losses[rule, rank]) for rank in ranks)))
    total = {power: sum(np.log(np.mean(losses[rule, rank][power]["tuning"])) for rank in ranks) for power in common}
    finite = {power: value for power, value in total.items() if np.isfinite(value)}
    return min(finite, key=finite.get) if finite else None
