"""A member of a sweep as a normal adapter: at its own rank, with its own config and head."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lora_jax.config import LoRAConfig
from lora_jax.errors import TreeError
from lora_jax.leaves import adapter_at, as_leaves, modules
from lora_jax.scalars import integer
from lora_jax.sweep.members import Member, config_of_member
from lora_jax.sweep.stacks import everywhere
from lora_jax.sweep.trainer import SweepState, member_params
from lora_jax.tree import Params, flat, nested
from lora_jax.tree_config import config_of, live_rank, rank_at, with_rank


def member(
    state: SweepState, shared: Params, members: Sequence[Member], index: Any, config: LoRAConfig | None = None
) -> tuple[LoRAConfig | None, dict]:
    """`(config, params)` of one member, as if it had been trained alone: for `save_adapter`, `peft.save`, `merge`, `bank.stack`.

    Args:
      state: after `Sweep.start(stacked, mask, members=members)`, and training.
      shared: the base, as `Sweep.run` was given it.
      members: those of the state, in their order.
      index: which of them.
      config: the model's (`model.config`), for one that keeps its patterns, dropout and start; rank and alpha are the member's. None: the config
        that the tree tells by itself (`tree_config.config_of`), with every kernel by its path and no dropout. It makes the same adapters.

    Returns:
      The member's config, None where it has no adapter, and the whole tree: padding cut off, its own head.

    Raises:
      TreeError: for an index or members that are not the state's, or a config that is not the member's.

    >>> import flax.linen as nn, jax, jax.numpy as jnp, optax
    >>> from lora_jax import LoRA, sweep, trainable_mask
    >>> base, x = nn.Dense(4, name="head"), jnp.ones((1, 5))
    >>> base_params = base.init(jax.random.key(0), x)["params"]
    >>> members = sweep.grid(ranks=(1, 3), alphas=(6,), learning_rates=(1e-3,), seeds=(0,))
    >>> stacked = sweep.init_adapters(LoRA(base, LoRAConfig(rank=1, targets="*")), members, x)
    >>> state = sweep.Sweep(lambda params, batch, key: (0.0, None), optax.adam).start(stacked, trainable_mask(stacked), members=members)
    >>> config, params = member(state, base_params, members, 0)
    >>> config, params["lora_a"].shape
    (LoRAConfig(rank=1, alpha=6, targets=('kernel',)), (5, 1))
    """
    position = _position(state, members, index)
    leaves = flat(member_params(state, shared, position))
    own = None if config is None else config_of_member(config, members[position])
    for module in modules(leaves):
        adapter = adapter_at(leaves, module)
        rank = live_rank(adapter) if own is None else rank_at(leaves, module, own)
        leaves |= as_leaves(with_rank(adapter, rank, module.rstrip("/") or "the root"), module)
    params = nested(leaves)
    if own is None and modules(leaves):
        own = config_of(params, rank=members[position].rank, alpha=members[position].alpha)
    return own if modules(leaves) else None, params


def _position(state: SweepState, members: Sequence[Member], index: Any) -> int:
    """The index, of members that are the state's."""
    if not isinstance(members, Sequence) or not all(isinstance(member, Member) for member in members):
        raise TreeError("sweep.member takes (state, shared, members, index); members are those of sweep.grid.")
    position, rates = integer(index), np.asarray(everywhere(state.learning_rate))
    if position is None or not 0 <= position < len(members):
        raise TreeError(f"there is no member {index!r}; the sweep has 0 to {len(members) - 1}.")
    own = np.asarray([member.learning_rate for member in members], np.float32)
    if len(own) > len(rates) or not np.array_equal(own, rates[: len(own)]):
        raise TreeError(
            f"these {len(members)} members are not those of the state, which has {len(rates)} with the learning rates {_some(rates)}; give those "
            "that it was started with, in their order."
        )
    return position


def _some(rates: np.ndarray) -> str:
    return ", ".join(f"{rate:g}" for rate in rates[:4]) + (" ..." if len(rates) > 4 else "")
