"""The members of a sweep: which they are, and their adapters, stacked and padded to one rank."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from lora_jax import starts, targets
from lora_jax.adapter import adapter_of
from lora_jax.config import LoRAConfig
from lora_jax.errors import ConfigError
from lora_jax.intake import tree_of
from lora_jax.leaves import PARTNER, A, B, kernel_path, kernel_paths, modules, name_of, owner
from lora_jax.lowrank import pad_rank
from lora_jax.mesh import sharing_members
from lora_jax.of_function import FunctionLoRA
from lora_jax.sweep.values import alpha_of, each, rank_of, rate_of, seed_of
from lora_jax.tree import Params, flat, nested


class Member(NamedTuple):
    """One run of a sweep. `alpha` None means the config's.

    >>> Member(rank=8, alpha=None, learning_rate=1e-3, seed=0).rank
    8
    """

    rank: int
    alpha: float | None
    learning_rate: float
    seed: int


def grid(
    *,
    ranks: Iterable[int],
    learning_rates: Iterable[int | float],
    seeds: Iterable[int],
    alphas: Iterable[int | float | None] = (None,),
) -> list[Member]:
    """Every combination, seeds fastest.

    Raises:
      ConfigError: for a rank, alpha, learning rate or seed that is none, or is given twice, or where there is none.

    >>> len(grid(ranks=(1, 2), learning_rates=(1e-3,), seeds=range(3)))
    6
    """
    axes = (
        each("ranks", ranks, rank_of),
        each("alphas", alphas, alpha_of),
        each("learning_rates", learning_rates, rate_of),
        each("seeds", seeds, seed_of),
    )
    return [Member(*values) for values in itertools.product(*axes)]


def even(members: Sequence[Member], mesh: Mesh | AbstractMesh | None = None) -> list[Member]:
    """The members, and the last one again until the devices share them evenly.

    Args:
      mesh: as for `Sweep`; None is every device for members.

    >>> on_two = AbstractMesh((2, 1, 1), ("members", "data", "model"))
    >>> len(even(grid(ranks=(1, 2, 3), learning_rates=(1e-3,), seeds=(0,)), on_two))
    4
    """
    if not members:
        raise ConfigError("the sweep has no members; sweep.grid makes some.")
    return [*members, *[members[-1]] * (-len(members) % sharing_members(mesh))]


def init_adapters(
    model: Any, members: Sequence[Member], *args: Any, base_params: Params | None = None, **kwargs: Any
) -> dict:
    """The members' fresh adapters, stacked [M, ...] and padded to the largest rank.

    Member m equals `adapt(jax.random.key(m.seed), base, LoRA(base_module, config with m.rank and m.alpha), *args)`,
    up to the padding. One compiled program draws all of them.

    Args:
      model: the LoRA wrapper, of `lora_jax` or `lora_jax.nnx`.
      *args, **kwargs: an example input, as for `model.init`.
      base_params: the base, for configs whose adapters begin with something of it (DoRA, PiSSA, OLoRA). Of a function it is the first of `args`
        already, and may be left out.

    Raises:
      ConfigError: when there are no members, or such a config has no base.

    >>> import flax.linen as nn
    >>> from lora_jax import LoRA
    >>> model = LoRA(nn.Dense(4), LoRAConfig(rank=2, targets="*"))
    >>> stacked = init_adapters(model, grid(ranks=(1, 3), learning_rates=(1e-3,), seeds=(0, 1)), jnp.ones((1, 5)))
    >>> {name: leaf.shape for name, leaf in stacked.items()}
    {'lora_a': (4, 5, 3), 'lora_b': (4, 3, 4), 'lora_scale': (4,)}
    """
    if not members:
        raise ConfigError("the sweep has no members; sweep.grid makes some.")
    if base_params is None and starts.reads_base(model.config) and isinstance(model, FunctionLoRA) and args:
        base_params = args[0]
    if base_params is None and starts.reads_base(model.config):
        raise ConfigError("these adapters begin at the base's kernels: pass init_adapters(..., base_params=...).")
    base = None if base_params is None else tree_of(base_params, "init_adapters: base_params")
    groups = _by_config(model, members)
    if base is not None:
        _require_finite(model, base, args, kwargs)

    @jax.jit
    def draw(keys: dict):
        drawn = [_draw_group(model.with_config(config), base, keys[i], args, kwargs) for i, config in enumerate(groups)]
        ranks = {path: max(tree[path].shape[-1] for tree in drawn) for path in drawn[0] if name_of(path) in PARTNER}
        padded = [_pad(tree, ranks) for tree in drawn]
        return {path: jnp.concatenate([tree[path] for tree in padded])[order] for path in padded[0]}

    keys = {i: jax.vmap(jax.random.key)(_seeds(members, where)) for i, where in enumerate(groups.values())}
    order = np.argsort(np.concatenate(list(groups.values())))  # from grouped back to the members' order
    return nested(draw(keys))


def _by_config(model: Any, members: Sequence[Member]) -> dict:
    """config -> positions of its members."""
    groups: dict = {}
    for position, member in enumerate(members):
        groups.setdefault(config_of_member(model.config, member), []).append(position)
    return groups


def config_of_member(config: LoRAConfig, member: Member) -> LoRAConfig:
    """The config with a member's rank and alpha.

    >>> config_of_member(LoRAConfig(rank=1, alpha=16), Member(8, None, 1e-3, 0))
    LoRAConfig(rank=8, alpha=16)
    """
    return dataclasses.replace(config, rank=member.rank, alpha=config.alpha if member.alpha is None else member.alpha)


def _require_finite(model: Any, base: dict, args, kwargs) -> None:
    """Raises TreeError where a kernel that is adapted has an entry that is infinite or NaN."""
    shapes = flat(jax.eval_shape(lambda key: model.init(key, *args, **kwargs), jax.random.key(0))["params"])
    for place in modules(shapes) if starts.reads_base(model.config) else ():
        path = kernel_path(base, place)
        starts.require_finite(path, nn.meta.unbox(base[path]))


def _seeds(members: Sequence[Member], where: Sequence[int]) -> jax.Array:
    return jnp.asarray([seed_of(members[i].seed) for i in where], jnp.uint32)


def _draw_group(model: Any, base: dict | None, keys: jax.Array, args, kwargs) -> dict[str, jax.Array]:
    def draw(key):
        fresh = flat(adapter_of(model.init(key, *args, **kwargs)["params"]))
        return fresh if base is None else starts.onto(model.config, fresh, base)

    return jax.lax.map(draw, keys)  # XLA takes half as long to compile it as a vmap of random draws


def _pad(leaves: dict[str, jax.Array], ranks: dict[str, int]) -> dict[str, jax.Array]:
    """Every pair of factors, and of those that they began as, with as many columns and rows as the widest."""
    padded = dict(leaves)
    for path in ranks:
        other = path.removesuffix(name_of(path)) + PARTNER[name_of(path)]
        padded[path], padded[other] = pad_rank(leaves[path], leaves[other], ranks[path])
    return padded


def is_padding(model: Any, stacked: Params, members: Sequence[Member]) -> dict:
    """True where an entry of a stacked adapter is padding; after training these entries are still zero.

    >>> import flax.linen as nn
    >>> from lora_jax import LoRA
    >>> model, members = LoRA(nn.Dense(4), LoRAConfig(rank=2, targets="*")), grid(ranks=(1, 2), learning_rates=(1e-3,), seeds=(0,))
    >>> is_padding(model, init_adapters(model, members, jnp.ones((1, 1))), members)["lora_a"].tolist()
    [[[False, True]], [[False, False]]]
    """
    configs = [config_of_member(model.config, member) for member in members]

    def padding(path: str, leaf: jax.Array) -> np.ndarray:
        kernels = kernel_paths(owner(path))
        names = [*kernels, *(kernel.rpartition("/")[0] for kernel in kernels)]
        ranks = np.asarray([targets.rank_and_alpha(config, *names)[0] for config in configs])
        axis = -1 if path.endswith(A) else -2
        column = np.arange(leaf.shape[axis]).reshape(-1, *[1] * (-1 - axis))
        return np.broadcast_to(column >= ranks.reshape(-1, *[1] * (leaf.ndim - 1)), leaf.shape)

    return nested({p: padding(p, leaf) for p, leaf in flat(stacked).items() if p.endswith((A, B))})
