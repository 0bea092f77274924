"""Trees whose leaves have a leading axis [M] of members: made, filled up, and taken out again."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lora_jax.tree import Params


@functools.partial(jax.jit, static_argnames="members")  # one program, not one per leaf
def broadcast(tree: Params, members: int) -> Params:
    """M copies of a tree, e.g. of a base that every member fine-tunes in full.

    >>> broadcast({"kernel": jnp.ones((2, 3))}, members=4)["kernel"].shape
    (4, 2, 3)
    """
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (members, *leaf.shape)), tree)


def fill(tree: Any, members: int) -> Any:
    """Leaves [M, ...] with the last entry again until there are `members`.

    >>> fill(jnp.arange(3), 5).tolist()
    [0, 1, 2, 2, 2]
    """

    def longer(leaf):
        missing = members - leaf.shape[0]
        return leaf if not missing else jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)])

    return jax.tree.map(longer, tree)


def first(tree: Any, members: int) -> Any:
    """The first members of leaves [M, ...], whole on every device and in every process.

    >>> first(jnp.arange(3), 2).tolist()
    [0, 1]
    """
    return everywhere(tree, lambda leaf: leaf[:members])


def everywhere(tree: Any, pick: Callable) -> Any:
    """`pick` of every leaf; of one that is spread over processes, so that each has all of it."""

    def one(leaf):
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return pick(leaf)
        on_all = jax.sharding.NamedSharding(leaf.sharding.mesh, jax.P())
        return jax.jit(pick, out_shardings=on_all)(leaf)

    return jax.tree.map(one, tree)
