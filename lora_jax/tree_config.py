"""A tree beside a config: whether its adapters are the config's, and the config that a tree tells by itself."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lora_jax import axes, targets
from lora_jax.config import SCALING_RULES, LoRAConfig, scale_of
from lora_jax.errors import TreeError
from lora_jax.intake import adapted
from lora_jax.leaves import Adapter, adapter_at, is_adapter_leaf, kernel_path, kernel_paths, modules
from lora_jax.starts import FROM_KERNEL
from lora_jax.tree import Params

ORTHONORMAL = 1e-3  # how far OLoRA's rows may be from it


def require_config(params: Params, config: LoRAConfig) -> None:
    """Raises TreeError where an adapter in a tree has another rank than the config says, or is of another variant.

    >>> one = {"lora_a": np.ones((3, 2)), "lora_b": np.ones((2, 4)), "lora_scale": np.ones(())}
    >>> require_config({"head": {"kernel": np.ones((3, 4)), **one}}, LoRAConfig(rank=2, targets="head"))
    """
    leaves = adapted(params, "params")
    for module in modules(leaves):
        adapter, where, rank = adapter_at(leaves, module), _said(module), rank_at(leaves, module, config)
        if adapter.a.shape[-1] != rank:
            raise TreeError(
                f"{where} has rank {adapter.a.shape[-1]}, and the config says {rank}; give the config it was made with (a sweep's member comes with "
                f"its own, lora_jax.sweep.member), or name the layer in rank_pattern."
            )
        if (adapter.magnitude is not None) != config.dora:
            raise TreeError(
                f"{where} has {'a' if adapter.magnitude is not None else 'no'} magnitude, and the config says dora={config.dora}; give the config "
                "it was made with."
            )
        if (adapter.start_a is not None) != (config.init in FROM_KERNEL):
            raise TreeError(
                f"{where} has {'a' if adapter.start_a is not None else 'no'} start, and the config says init={config.init!r}; give the config it "
                "was made with."
            )


def rank_at(leaves: Mapping[str, Any], module: str, config: LoRAConfig) -> int:
    """The rank that a config gives the layer whose adapter is at this place of a flat tree; the kernel may be absent.

    >>> rank_at({"head/kernel": 1}, "head/", LoRAConfig(rank=2, rank_pattern={"head": 4}))
    4
    """
    paths = [path for path in kernel_paths(module) if path in leaves] or kernel_paths(module)
    return targets.rank_and_alpha(config, *paths, *(path.rpartition("/")[0] for path in paths))[0]


def config_of(params: Params, *, rank: int | None = None, alpha: int | float | None = None) -> LoRAConfig:
    """The plain config that makes such adapters on this base: every kernel by its own path, ranks and scales as they are.

    A tree does not tell the dropout, the draw of `a`, or the patterns that chose the layers: they are the defaults, and paths. PiSSA's start and
    OLoRA's are told apart by OLoRA's orthonormal rows.

    Args:
      rank: that of the config; None: the most frequent one. Layers of another are in `rank_pattern`.
      alpha: that of the config, where a scaling rule gives all scales by it.

    Raises:
      TreeError: where an adapter has no kernel beside it, or a scale that no alpha gives (0, or several in one stack).

    >>> one = {"lora_a": np.ones((3, 2)), "lora_b": np.ones((2, 4)), "lora_scale": np.asarray(8.0)}
    >>> config_of({"head": {"kernel": np.ones((3, 4)), **one}})
    LoRAConfig(rank=2, alpha=16, targets=('head/kernel',))
    """
    leaves = adapted(params, "params")
    found = {module: adapter_at(leaves, module) for module in modules(leaves)}
    if not found:
        raise TreeError("these parameters hold no adapter; lora_jax.adapt makes one.")
    among = [path for path in leaves if not is_adapter_leaf(path)]
    names = {module: targets.exactly(kernel_path(leaves, module), among) for module in found}
    ranks = {module: adapter.a.shape[-1] for module, adapter in found.items()}
    alphas = {module: _alpha(module, adapter) for module, adapter in found.items()}
    rank = _most(ranks) if rank is None else rank
    scaling = None if alpha is None else _rule(alpha, found)
    if scaling is None:
        scaling, alpha = "alpha/r", _most(alphas)
    else:
        alphas = dict.fromkeys(found, alpha)
    told_roles = {module: axes.roles_in(module) for module in found}
    return LoRAConfig(
        rank=rank,
        alpha=alpha,
        scaling=scaling,
        targets=sorted(set(names.values())),
        rank_pattern={names[module]: own for module, own in ranks.items() if own != rank},
        alpha_pattern={
            names[module]: ranks[module] if own is None else own for module, own in alphas.items() if own != alpha
        },
        init=_init(found),
        dora=any(adapter.magnitude is not None for adapter in found.values()),
        roles={names[module]: told[1] for module, told in told_roles.items() if told is not None},
    )


def _most(told: Mapping[str, Any]) -> Any:
    """The most frequent value; of equal ones the first."""
    return max(dict.fromkeys(told.values()), key=list(told.values()).count)


def _rule(alpha: int | float, found: Mapping[str, Adapter]) -> str | None:
    """The scaling rule that gives every scale by this alpha; None where none does."""

    def gives(rule: str) -> bool:
        return all(
            np.all(np.asarray(adapter.scale, np.float32) == np.float32(scale_of(alpha, adapter.a.shape[-1], rule)))
            for adapter in found.values()
        )

    return next((rule for rule in SCALING_RULES if gives(rule)), None)


def _said(module: str) -> str:
    return module.rstrip("/") or "the root"


def _alpha(module: str, adapter: Adapter) -> int | float | None:
    """The shortest number that gives this scale by alpha / rank; None where it is the rank."""
    scales, rank = np.unique(np.asarray(adapter.scale, np.float32)), adapter.a.shape[-1]
    if len(scales) > 1 or not scales[0] > 0:
        raise TreeError(
            f"{_said(module)} has the scale {', '.join(map(str, scales))}, which no alpha gives; pass config=."
        )
    if scales[0] == 1:
        return None
    value = float(scales[0]) * rank
    short = (float(f"{value:.{digits}g}") for digits in range(1, 12))
    alpha = next((each for each in short if np.float32(each / rank) == scales[0]), value)
    return int(alpha) if alpha == int(alpha) else alpha


def _init(found: Mapping[str, Adapter]) -> str:
    starts = [np.asarray(adapter.start_b, np.float64) for adapter in found.values() if adapter.start_b is not None]
    if not starts:
        return "lora"
    orthonormal = all(np.allclose(b @ b.swapaxes(-1, -2), np.eye(b.shape[-2]), atol=ORTHONORMAL) for b in starts)
    return "olora" if orthonormal else "pissa"


def live_rank(adapter: Adapter) -> int:
    """The rank of an adapter without the zeros that it was padded with.

    >>> live_rank(Adapter(np.array([[1.0, 0.0]]), np.zeros((2, 1)), np.ones(())))
    1
    """
    is_live = _any_but(adapter.a, -1) | _any_but(adapter.b, -2)
    if adapter.start_a is not None:
        is_live |= _any_but(adapter.start_a, -1) | _any_but(adapter.start_b, -2)
    return int(np.flatnonzero(is_live).max(initial=0)) + 1


def _any_but(factor: Any, axis: int) -> np.ndarray:
    values = np.moveaxis(np.asarray(factor), axis, 0)
    return np.any(values.reshape(len(values), -1) != 0, axis=1)


def with_rank(adapter: Adapter, rank: int, where: str) -> Adapter:
    """An adapter cut to a rank, where what is cut off is zeros.

    Raises:
      TreeError: where it is not: it is no padding.

    >>> with_rank(Adapter(np.array([[1.0, 0.0]]), np.zeros((2, 1)), np.ones(())), 1, "head").a.shape
    (1, 1)
    """
    if rank > adapter.a.shape[-1] or live_rank(adapter) > rank:
        raise TreeError(
            f"{where} has rank {live_rank(adapter)}, and its config says {rank}: it is of another member, or another config."
        )
    cut = {name: getattr(adapter, name) for name in ("a", "b", "start_a", "start_b")}
    return adapter._replace(
        **{
            name: leaf if leaf is None else leaf[..., :rank] if name.endswith("a") else leaf[..., :rank, :]
            for name, leaf in cut.items()
        }
    )
