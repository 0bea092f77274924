"""What is trained in each arm of the comparison: adapters on which layers, and which leaves of the base beside them or alone."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

import lora_jax
from experiments.common.projections import LINEAR, SQUARE
from lora_jax import sweep
from lora_jax.models.causal_lm import CausalLM
from lora_jax.tree import flat, nested

EMBEDDINGS = ("model/embed_tokens/*",)
NORMS = ("*norm/scale",)
PROJECTIONS = ("*_proj/kernel",)
EVERYTHING = ("*",)


@dataclasses.dataclass(frozen=True)
class Kind:
    """Members of a kind differ in numbers alone: one program trains them.

    `targets` are the layers with adapters, none where only leaves of the base train, which `train` names.
    """

    targets: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    decays: bool = True  # the learning rate, linearly to 0; else it is constant
    warm_up: float = 0.03  # share of the steps


@dataclasses.dataclass(frozen=True)
class Arm:
    """`rate` None: its own, found on the tuning items; `scale` = alpha / rank."""

    name: str
    kind: Kind
    rank: int = 0
    scale: float = 2.0
    rate: float | None = None

    def member(self, rate: float, seed: int) -> sweep.Member:
        """One run of it."""
        return sweep.Member(self.rank, self.scale if self.rank else None, rate, seed)


ON_ALL, ON_SQUARE = Kind(LINEAR), Kind(SQUARE)
AS_THE_STUDY = Kind(SQUARE, decays=False, warm_up=0.0)
FULL = Arm("full", Kind(train=EVERYTHING))
ON_PROJECTIONS = Arm("full on projections", Kind(train=PROJECTIONS))
EMBEDDINGS_ALONE = Arm("embeddings alone", Kind(train=EMBEDDINGS))
WITH_EMBEDDINGS = Arm("LoRA r=8 + embeddings, norms", Kind(LINEAR, train=(*EMBEDDINGS, *NORMS)), 8)
SQUARE_TUNED = Arm("LoRA r=8 on q, o", ON_SQUARE, 8)


def lora(rank: int) -> Arm:
    """LoRA on all linear layers."""
    return Arm(f"LoRA r={rank}", ON_ALL, rank)


def original(rank: int, rate: float = 1e-4) -> Arm:
    """The study's own: no alpha, so that the update is A B, and one constant learning rate."""
    return Arm(f"the study's LoRA r={rank}", AS_THE_STUDY, rank, scale=1.0, rate=rate)


@dataclasses.dataclass(frozen=True, eq=False)
class Begun:
    """The stacked leaves [M, ...] that differ between members, which of them train, and the leaves that all share."""

    stacked: dict[str, Any]
    train: tuple[str, ...]
    shared: dict[str, Any]


def applied(model: CausalLM, kind: Kind):
    """The module that a kind's members are applied by."""
    if not kind.targets:
        return model
    return lora_jax.LoRA(model, lora_jax.LoRAConfig(rank=1, scaling="constant", alpha=1.0, targets=kind.targets))


@functools.lru_cache(maxsize=16)  # one base after the other begins with these
def _drawn(module, members: tuple[sweep.Member, ...]) -> dict[str, Any]:
    """Fresh adapters, as arrays of the host: what trains on takes the place of what it was given."""
    return jax.device_get(sweep.init_adapters(module, members, jnp.ones((1, 8), jnp.int32)))


def begun(module, kind: Kind, bases: Sequence[dict[str, Any]], members: list[sweep.Member]) -> Begun:
    """Fresh adapters where there are targets, and of each member's base what trains, or all of it where there are several bases."""
    own = EVERYTHING if any(base is not bases[0] for base in bases) else kind.train
    shared, stacked = bases[0], {}
    if own:
        mask = lora_jax.trainable_mask(bases[0], train=own)
        shared, _ = lora_jax.partition(bases[0], mask)
        stacked = flat(_stacked([lora_jax.partition(base, mask)[1] for base in bases]))
    if kind.targets:
        stacked |= flat(_drawn(module, tuple(members)))
    return Begun(nested(stacked), kind.train, shared)


@jax.jit  # one program, not one per leaf
def _stacked(trees: list[dict[str, Any]]) -> dict[str, Any]:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
