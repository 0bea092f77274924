"""Trees whose leaves have a leading axis [M] of members: made, filled up, and taken out again."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from lora_jax import rows
from lora_jax.errors import TreeError
from lora_jax.tree import Params


def broadcast(tree: Params, members: int) -> Params:
    """M copies of a tree, e.g. of a base that every member fine-tunes in full.

    >>> broadcast({"kernel": jnp.ones((2, 3))}, members=4)["kernel"].shape
    (4, 2, 3)
    """
    return _broadcast(tree, rows.positive("members", members))


@functools.partial(jax.jit, static_argnames="members")  # one program, not one per leaf
def _broadcast(tree: Params, members: int) -> Params:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (members, *leaf.shape)), tree)


def fill(tree: Any, members: int) -> Any:
    """Leaves [M, ...] with the last entry again until there are `members`.

    >>> fill(jnp.arange(3), 5).tolist()
    [0, 1, 2, 2, 2]
    """

    if members < rows.count(tree, "fill"):
        raise TreeError(f"fill: there are {rows.count(tree, 'fill')} members, more than {members}.")

    def longer(leaf):
        missing = members - leaf.shape[0]
        return leaf if not missing else jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)])

    return jax.tree.map(longer, tree)


def first(tree: Any, members: int) -> Any:
    """The first members of leaves [M, ...], whole on every device and in every process.

    >>> first(jnp.arange(3), 2).tolist()
    [0, 1]
    """
    if not 0 < members <= rows.count(tree, "first"):
        raise TreeError(f"first: there are {rows.count(tree, 'first')} members, and {members} are asked for.")
    return jax.tree.map(lambda leaf: leaf[:members], everywhere(tree))


def everywhere(tree: Any) -> Any:
    """Leaves that are spread over processes, so that each has all of them; the others as they are."""
    leaves, structure = jax.tree.flatten(tree)
    spread = [i for i, leaf in enumerate(leaves) if _is_spread(leaf)]
    if spread:
        on_all = jax.sharding.NamedSharding(leaves[spread[0]].sharding.mesh, jax.P())
        for i, leaf in zip(spread, _gathered([leaves[i] for i in spread], on_all), strict=True):
            leaves[i] = leaf
    return jax.tree.unflatten(structure, leaves)


def _is_spread(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and not leaf.is_fully_replicated


@functools.partial(jax.jit, static_argnames="on_all")
def _gathered(leaves: list[jax.Array], on_all: jax.sharding.NamedSharding) -> list[jax.Array]:
    """In one program: a device of a CPU takes 32 programs at a time, and processes that each wait for another's 33rd never meet."""
    return jax.lax.with_sharding_constraint(leaves, on_all)
