"""Whether stacked adapters are those of a list of members, in its order, as far as ranks tell."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lora_jax.errors import TreeError
from lora_jax.intake import is_known
from lora_jax.leaves import A, modules
from lora_jax.sweep.members import Member


def require_order(leaves: Mapping[str, Any], members: Sequence[Member]) -> None:
    """Raises TreeError where a member with a lower rank than another has more columns that are not padding.

    Layers whose rank is the config's own (`rank_pattern`) have the same number in all members, and tell nothing.

    Args:
      leaves: flat, with a leading axis [M].

    >>> two = {"lora_a": np.array([[[1.0, 0.0]], [[1.0, 1.0]]])}
    >>> require_order(two, [Member(1, None, 1e-3, 0), Member(2, None, 1e-3, 0)])
    """
    ranks = [member.rank for member in members]
    if len(set(ranks)) < 2:
        return
    for module in modules(leaves):
        a = leaves[module + A]
        if not is_known(a) or isinstance(a, jax.core.Tracer):
            continue
        live = np.asarray((a != 0).any(axis=tuple(range(1, a.ndim - 1)))).sum(axis=1)  # [M]
        for (rank, own), (other, its) in _neighbours(ranks, live):
            if rank < other and own > its > 0:
                raise TreeError(
                    f"{module.rstrip('/') or 'the root'} has rank {own} in a member of rank {rank}, and {its} in one of rank {other}: these are not "
                    "the members that the adapters were made for, or not in their order; give both the same list."
                )


def _neighbours(ranks: Sequence[int], live: np.ndarray) -> Any:
    """Pairs of (rank, live columns), the most of each rank beside the fewest of the next higher one."""
    each = sorted(set(ranks))
    of = {rank: [int(count) for own, count in zip(ranks, live, strict=True) if own == rank] for rank in each}
    return [((rank, max(of[rank])), (other, min(of[other]))) for rank, other in zip(each, each[1:], strict=False)]
