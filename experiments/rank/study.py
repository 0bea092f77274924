"""What rank does on MNIST: a base that knows the digits 0-7 is adapted to all ten, its old digits replayed.

Regimes: head only, LoRA on every layer at ranks r, full fine-tuning. Every regime and rank chooses its own learning rate on held-out training
images, from a range that is widened until the best is inside it. Each seed has its own base, and all regimes and ranks see a seed's base and
batches: they are compared base by base.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lora_jax
from experiments.common import memory
from experiments.common.classification import accuracy, class_counts
from experiments.common.errors import UserError
from experiments.common.items import packed
from experiments.common.pretraining import train_bases
from experiments.common.recording import RunFolder
from experiments.common.statistics import with_outcomes
from experiments.rank import settings as rank_settings
from experiments.rank import training
from experiments.rank.settings import PRESETS as PRESETS
from experiments.rank.settings import REGIMES, Settings
from experiments.rank.task import Sets, Task, sets
from lora_jax.models.mlp import MLP


def module(task: Task) -> MLP:
    return MLP(rank_settings.HIDDEN, classes=len(task.classes), dropout=rank_settings.DROPOUT)


def run(folder: RunFolder, settings: Settings, task: Task) -> dict[str, Any]:
    """Trains the bases and the three regimes; returns the rows of the summary and the checks."""
    model, shape = module(task), (1, task.train.x.shape[1])
    memory.require(
        needed(settings, model, jnp.ones(shape)),
        _all_at_once(settings),
        "give fewer --seeds, --ranks or --learning_rates",
    )
    of_task = sets(task, settings.batch_size)
    bases, history = train_bases(
        folder, model, of_task.old, of_task.test,
        seeds=settings.seeds, epochs=settings.base_epochs, batch_size=settings.batch_size, strategy=settings.strategy,
    )  # fmt: skip
    before = jax.tree.map(np.asarray, bases)
    place = training.Place(folder, settings, of_task, model, bases)
    found = {name: training.regime(place, name) for name in REGIMES}
    chex.assert_trees_all_equal(bases, before)
    size = optax.tree.size(bases) // settings.seeds
    items = _counts(of_task, task)
    return {
        "base": _base(np.asarray(history[-1]["errors"]), of_task, task),
        "rows": [
            _row(name, rank, of, items, size) for name, of in found.items() for rank in dict.fromkeys(r for r, _ in of)
        ],
        "items": items,
        "traces": {name: max(one.traces for one in of.values()) for name, of in found.items()},
        "base_unchanged": True,
        "data": task.record(),
    }


def needed(settings: Settings, model: MLP, x: jax.Array) -> int:
    """Bytes, at least, of the largest program."""
    base = memory.bytes_of(jax.eval_shape(model.init, jax.random.key(0), x))
    factors = memory.of_adapters(model, lora_jax.LoRAConfig(rank=1), max(settings.ranks), x)
    lora = len(settings.ranks) * len(settings.lora_rates)
    return max(
        memory.of_training(lora, factors), memory.of_training(max(settings.seeds, len(settings.full_rates)), base)
    )


def _all_at_once(settings: Settings) -> str:
    members = len(settings.ranks) * len(settings.lora_rates)
    return f"training {members:,} adapters, or {settings.seeds:,} bases, at once"


def _counts(of_task: Sets, task: Task) -> dict[str, int]:
    """Test examples of old and of new classes, in the order of `right`."""
    new = int(np.isin(np.asarray(of_task.test["y"]), task.new).sum())
    return {"old": len(task.test.y) - new, "new": new}


def _base(errors: np.ndarray, of_task: Sets, task: Task) -> dict[str, Any]:
    """What the bases score, of errors [K, C]."""
    counts = class_counts(np.asarray(of_task.test["y"]), len(task.classes))
    groups = {"accuracy": None, "accuracy_old": task.old, "accuracy_new": task.new}
    return with_outcomes(**{name: accuracy(errors, counts, places) for name, places in groups.items()})


def _row(name: str, rank: int, of: dict, items: dict[str, int], base_parameters: int) -> dict[str, Any]:
    """A regime and rank at the learning rate that does best on the validation examples, averaged over bases."""
    losses = training.losses(of, rank)
    best = min(losses, key=losses.__getitem__)
    chosen = of[rank, best]
    if not chosen.is_finite:
        raise UserError(f"training diverged at every learning rate of {name}; give lower --learning_rates.")
    parameters = chosen.parameters
    return {
        "regime": name,
        "rank": rank or None,
        "learning_rate": best,
        "rate_at_edge": len(losses) > 1 and best in (min(losses), max(losses)),
        "validation_errors_by_rate": {
            f"{rate:g}": loss if np.isfinite(loss) else None for rate, loss in losses.items()
        },
        "validation_errors_by_seed": {f"{rate:g}": of[rank, rate].validation.tolist() for rate in losses},
        "parameters": parameters,
        "share": parameters / (base_parameters + (parameters if name == "LoRA" else 0)),
        **with_outcomes(**scores(chosen.right, items["old"])),
        "followed_by_seed": chosen.followed.tolist(),
        "right": packed(chosen.right),
    }


def scores(right: np.ndarray, old: int) -> dict[str, np.ndarray]:
    """Shares [K] right of all, of the old and of the new classes; right [K, I], the old ones first."""
    parts = {"accuracy": right, "accuracy_old": right[:, :old], "accuracy_new": right[:, old:]}
    return {name: part.mean(axis=1) for name, part in parts.items()}
