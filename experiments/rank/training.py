"""One regime of the rank sweep on every base: rounds of ranks x rates, one compiled program a round.

Letters: M members (rank and rate), K bases, I test examples, C classes, S steps, B batch.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lora_jax
from experiments.common import devices, phases
from experiments.common.classification import by_item, class_counts, cross_entropy, errors_by_class, right
from experiments.common.items import packed, unpacked
from experiments.common.pretraining import EVALUATION_BATCH, order_key
from experiments.common.rates import on_ladder, outwards
from experiments.common.recording import RunFolder, slug
from experiments.rank.settings import Settings
from experiments.rank.task import Sets
from lora_jax import sweep
from lora_jax.models.mlp import MLP

HEAD = "classifier"
FOLLOWED = 1000  # validation examples scored during training; a sweep of many members cannot afford all of them
Setting = tuple[int, float]  # rank (0 without adapters), learning rate


@dataclasses.dataclass(frozen=True)
class Place:
    """What training happens in: the run's folder, its settings, the sets and the bases [K, ...]."""

    folder: RunFolder
    settings: Settings
    sets: Sets
    model: MLP
    bases: Any


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """What one rank and rate gave, base by base."""

    validation: np.ndarray  # [K] wrong validation examples at the end
    right: np.ndarray  # bool [K, I] test examples, old classes first
    followed: np.ndarray  # [K, blocks + 1] share right of the followed examples
    is_finite: bool  # every loss on every base
    parameters: int  # that train
    traces: int


def regime(place: Place, name: str) -> dict[Setting, Outcomes]:
    """Every rank at every rate that was tried."""
    s = place.settings
    ranks = s.ranks if name == "LoRA" else (0,)
    found: dict[Setting, Outcomes] = {}
    asked = [(rank, rate) for rank in ranks for rate in s.rates(name)]
    for wider in range(s.widenings + 1):
        found |= _round(place, name, wider, asked)
        asked = [(rank, rate) for rank in ranks if (rate := _beyond(losses(found, rank)))]
        if not asked:
            break
    return found


def losses(found: dict[Setting, Outcomes], rank: int) -> dict[float, float]:
    """rate -> wrong validation examples, the mean over bases; infinite where training diverged."""
    of_rank = {rate: outcomes for (r, rate), outcomes in sorted(found.items()) if r == rank}
    return {rate: float(of.validation.mean()) if of.is_finite else float("inf") for rate, of in of_rank.items()}


def _beyond(of_rate: dict[float, float]) -> float | None:
    """The next rate outwards of the best; None where that has neighbours on both sides."""
    side = outwards(of_rate)
    return on_ladder(max(of_rate) if side > 0 else min(of_rate), side) if side else None


def _round(place: Place, name: str, wider: int, asked: list[Setting]) -> dict[Setting, Outcomes]:
    """One program, base after base."""
    s = place.settings
    adapted, train = _adapted(place.model, s, name)
    trainer = sweep.Sweep(cross_entropy(adapted), optax.adam, s.strategy, devices.mesh())
    measures = _Measures(trainer, adapted, place.sets)
    lines = [_on_base(place, name, wider, asked, base, adapted, train, trainer, measures) for base in range(s.seeds)]
    items = len(place.sets.test["y"])
    return {
        setting: Outcomes(
            validation=np.asarray([line["validation"][m] for line in lines]),
            right=unpacked([line["right"][m] for line in lines], items),
            followed=np.asarray([line["followed"][m] for line in lines]),
            is_finite=all(line["finite"][m] for line in lines),
            parameters=lines[0]["parameters"][m],
            traces=lines[0]["traces"],
        )
        for m, setting in enumerate(asked)
    }


class _Measures:
    """What is measured of a state: compiled once for all bases."""

    def __init__(self, trainer: sweep.Sweep, model: Any, sets: Sets):
        self._sets = sets
        self._errors = trainer.evaluation(errors_by_class(model), EVALUATION_BATCH)
        self._right = by_item(trainer, right(model))
        self._followed = {name: leaf[:FOLLOWED] for name, leaf in sets.validation.items()}

    def followed(self, state: sweep.SweepState, base: Any) -> dict[str, jax.Array]:
        return {"errors": self._errors(state, base, self._followed)["errors"]}

    def followed_share(self, errors: np.ndarray) -> np.ndarray:
        """[...] right, of errors [..., C]."""
        return 1 - errors.sum(axis=-1) / class_counts(np.asarray(self._followed["y"]), errors.shape[-1]).sum()

    def validation(self, state: sweep.SweepState, base: Any) -> np.ndarray:
        """[M] wrong."""
        return np.asarray(self._errors(state, base, self._sets.validation)["errors"]).sum(axis=-1)

    def right(self, state: sweep.SweepState, base: Any) -> np.ndarray:
        """[M, I]."""
        return self._right(state, base, self._sets.test)


def _on_base(place, name, wider, asked, base, adapted, train, trainer, measures) -> dict[str, Any]:
    """What a round gives on one base; kept, so that an interrupted run does not measure it again."""
    s, folder = place.settings, place.folder
    phase = f"{name}, base {base}" + (f", wider {wider}" if wider else "")
    kept = f"outcomes/{slug(phase)}.json"
    if (line := folder.read(kept)) is not None:
        return line
    members = [sweep.Member(rank, s.scale, rate, base) for rank, rate in asked]
    params = jax.tree.map(lambda leaf: leaf[base], place.bases)
    stacked, shared = _members_of(adapted, params, members, name)
    state = trainer.start(stacked, lora_jax.trainable_mask(stacked, train=train), members=members)
    state, history = phases.train(
        folder, phase, trainer, state, shared, place.sets.train,
        order=batches(s, base, len(place.sets.train["y"])), blocks=s.blocks,
        follow=lambda state: measures.followed(state, shared),
    )  # fmt: skip
    one = sweep.member_params(state, shared, 0)
    line = {
        "asked": asked,
        "validation": measures.validation(state, shared).tolist(),
        "right": packed(measures.right(state, shared)),
        "followed": measures.followed_share(np.stack([line["errors"] for line in history])).T.tolist(),
        "finite": np.isfinite(np.stack([line["loss"] for line in history[1:]])).all(axis=0).tolist(),
        "parameters": [_parameters(one, name, rank, train) for rank, _ in asked],
        "traces": phases.traces(history),
    }
    folder.write(kept, line)
    phases.forget_saves(folder, phase)
    return line


def _adapted(model: MLP, settings: Settings, name: str) -> tuple[Any, tuple[str, ...]]:
    """(module to apply, what trains beside adapters)."""
    if name == "LoRA":
        return lora_jax.LoRA(model, lora_jax.LoRAConfig(rank=1, scaling="constant", alpha=settings.scale)), ()
    return model, (HEAD,) if name == "head only" else ("*",)


def _members_of(adapted, base, members: list[sweep.Member], name: str) -> tuple[Any, Any]:
    """(stacked leaves, shared leaves)."""
    if name == "LoRA":
        size = base["hidden_0"]["kernel"].shape[0]
        return sweep.init_adapters(adapted, members, jnp.ones((1, size))), base
    if name == "head only":
        return sweep.broadcast({HEAD: base[HEAD]}, len(members)), {k: leaf for k, leaf in base.items() if k != HEAD}
    return sweep.broadcast(base, len(members)), {}


def batches(settings: Settings, seed: int, size: int):
    """block -> [S, B]: each seed has its own batches, the same for every regime, rank and rate."""
    shape = (settings.steps // settings.blocks, settings.batch_size)
    return lambda block: _drawn(jnp.uint32(seed), block, shape, size)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _drawn(seed: jax.Array, block: int, shape: tuple[int, int], size: int) -> jax.Array:
    return jax.random.randint(jax.random.fold_in(order_key(seed), block), shape, 0, size, jnp.int32)


def _parameters(params, name: str, rank: int, train) -> int:
    """Trainable parameters of one member; an adapter's as if it had not been padded."""
    if name == "LoRA":
        return sum(rank * (row.a[0] + row.b[1]) for row in lora_jax.report(params).rows)
    return lora_jax.report(params, lora_jax.trainable_mask(params, train=train)).trainable
