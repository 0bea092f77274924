"""EVA: adapters that begin where a layer's inputs vary most, with ranks where they explain most (Paischer et al. 2024, arXiv:2410.07170).

Section 3.2: the columns of `a` are the principal components of the layer's inputs on data of the task, `b` is zero; section 3.3: the
budget of ranks goes to the components, over all layers, that explain the largest share of their layer's variance.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax import targets
from lora_jax.adapter import adapt
from lora_jax.config import LoRAConfig
from lora_jax.errors import ConfigError
from lora_jax.intake import tree_of
from lora_jax.leaves import SCALE, A, B, adapter_at
from lora_jax.products.find import find
from lora_jax.products.function import shapes_of
from lora_jax.products.moments import Moments, moments
from lora_jax.products.roles import with_roles
from lora_jax.products.site import Site
from lora_jax.products.targeting import chosen
from lora_jax.scalars import number
from lora_jax.tree import Params, flat, nested, unboxed


def adapt_to(
    key: jax.Array,
    base_params: Params,
    model: Any,
    batches: Iterable[Any],
    *,
    collections: Mapping[str, Any] | None = None,
    rho: int | float = 2.0,
) -> tuple[Any, dict]:
    """`(model, params)`: the wrapper with the ranks that were found in its config, and the base with its adapter.

    Kernels that no matrix product reads (convolutions, lookups) keep the rank and the random `a` of the config. A layer that gets no rank is
    left out, as in PEFT. In a stack of layers ranks differ too: the narrower are padded with zeros, which stay zero. Scales are those of the
    config's rank.

    Args:
      batches: the model's arguments, a tuple for each batch; padding counts as data.
      collections: what else the model reads, {"batch_stats": ...} say.
      rho: a layer's rank is at most rho times the config's; 1 leaves ranks as they are.

    Raises:
      ConfigError: for a rho below 1, no batches, a config whose factors begin in another way, or data that is not finite or varies along fewer
        directions than the ranks ask for: factors beyond them would not move.
      TargetError: as `lora_jax.adapt`.

    >>> import flax.linen as nn
    >>> from lora_jax import LoRA
    >>> base, x = nn.Dense(4), jnp.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, -0.1, 0.0]])
    >>> base_params = base.init(jax.random.key(0), x)["params"]
    >>> wrapped = LoRA(base, LoRAConfig(rank=1, targets="*"))
    >>> _, params = adapt_to(jax.random.key(1), base_params, wrapped, [(x,)])
    >>> jnp.abs(params["lora_a"]).round(3).tolist()
    [[1.0], [0.0], [0.0]]
    """
    config = getattr(model, "config", None)
    if not isinstance(config, LoRAConfig):
        raise ConfigError(
            f"EVA gathers inputs in models that lora_jax.LoRA(module, config) wraps, and this is {type(model).__name__} of "
            f"{type(model).__module__}."
        )
    if (number(rho) or 0) < 1:
        raise ConfigError(f"rho is {rho!r}; it must be at least 1.")
    if config.init != "lora":
        raise ConfigError(f"EVA draws the factors itself; the config's init is {config.init!r}, it must be 'lora'.")
    batches = list(batches)
    if not batches or not all(isinstance(args, tuple) for args in batches):
        raise ConfigError("EVA needs at least one batch of the task's data, each a tuple of the model's arguments.")

    tree_of(base_params, "eva.adapt_to: base_params")

    def run(params: Any, *args: Any) -> Any:
        return model.apply({**(collections or {}), "params": params}, *args)

    every = with_roles(config, find(run, shapes_of(base_params), *batches[0]))
    sites = chosen(config, every)
    linear = {path: site for path, site in sites.items() if site.is_linear}
    components = {
        path: _components(path, found) for path, found in moments(run, unboxed(base_params), linear, batches).items()
    }
    ranks = _distributed(components, sites, config, rho)
    model = model.with_config(
        _with_ranks(config, every, sites, {path: int(rank.max()) for path, rank in ranks.items()})
    )
    leaves = flat(adapt(key, base_params, model, *batches[0]))
    for path, rank in ranks.items():
        if rank.any():
            leaves |= _begun(leaves, sites[path], components[path][0], rank, config)
    return model, nested(leaves)


def _begun(leaves: Mapping[str, Any], site: Site, components: jax.Array, ranks: np.ndarray, config: LoRAConfig) -> dict:
    """The leaves of the adapter that are EVA's: the factor on the inputs' side, and the scale, that of the config's rank."""
    module = f"{site.place}/".lstrip("/")
    adapter = adapter_at(leaves, module)
    scale = {module + SCALE: jnp.full_like(adapter.scale, _scale(config, site))}
    wide = adapter.a.shape[-1]
    columns = _columns(components, ranks, wide)
    if site.is_transposed:
        return {module + B: jnp.swapaxes(columns, -1, -2).reshape(adapter.b.shape), **scale}
    return {module + A: columns.reshape(adapter.a.shape), **scale}


def _scale(config: LoRAConfig, site: Site) -> float:
    rank, alpha = targets.rank_and_alpha(config, *site.names)
    return config.scale(rank=rank, alpha=alpha)


def _with_ranks(
    config: LoRAConfig, every: Mapping[str, Site], sites: Mapping[str, Site], wide: Mapping[str, int]
) -> LoRAConfig:
    """The config with these ranks, every kernel named exactly, and without those that got none."""
    names = [site.name for site in every.values()]
    kept = {path: site for path, site in sites.items() if wide.get(path, 1) > 0}
    usual = {path: targets.rank_and_alpha(config, *site.names) for path, site in kept.items()}

    def named(values: Mapping[str, Any], default: Any) -> dict[str, Any]:
        return {targets.exactly(kept[path].name, names): value for path, value in values.items() if value != default}

    return dataclasses.replace(
        config,
        targets=[targets.exactly(site.name, names) for site in kept.values()],
        excludes=(),
        rank_pattern=named({path: wide.get(path, rank) for path, (rank, _) in usual.items()}, config.rank),
        alpha_pattern=named({path: alpha for path, (_, alpha) in usual.items()}, config.alpha),
    )


def _columns(components: jax.Array, ranks: np.ndarray, wide: int) -> jax.Array:
    """[*L, D, wide]: of each layer its own number of components, then zeros."""
    kept = np.arange(wide) < ranks[..., None, None]
    return jnp.where(kept, components[..., :wide], 0)


def _components(path: str, moments: Moments) -> tuple[jax.Array, np.ndarray]:
    """(principal components [*L, D, D] as columns, the share of the variance that each explains [*L, D]), largest first.

    A share that is rounding alone is 0.

    Raises:
      ConfigError: where the data has infinities or NaN at this kernel.
    """
    if not bool(jnp.isfinite(moments.scatter).all()):
        raise ConfigError(
            f"EVA: the inputs of {path} have infinities or NaN in them on these batches; mend the data, or the base."
        )
    values, vectors = jnp.linalg.eigh(moments.scatter / moments.count[..., None, None])
    values = np.maximum(np.asarray(values, np.float64)[..., ::-1], 0)
    eps, size = np.finfo(np.float32).eps, values.shape[-1]
    around = np.abs(np.asarray(moments.mean, np.float64)).max(axis=-1, keepdims=True)
    values = np.where(values > size * np.maximum(eps * values[..., :1], (eps * around) ** 2), values, 0)
    return vectors[..., ::-1], values / np.maximum(values.sum(axis=-1, keepdims=True), np.finfo(np.float64).tiny)


def _distributed(
    components: Mapping[str, tuple], sites: Mapping[str, Site], config: LoRAConfig, rho: int | float
) -> dict[str, np.ndarray]:
    """path -> rank of each layer [*L]: the budget, the sum of the config's ranks, goes to the components that explain most."""
    budget, offers = 0, []
    for path, (_, shares) in sorted(components.items()):
        rank, _ = targets.rank_and_alpha(config, *sites[path].names)
        for index in np.ndindex(*shares.shape[:-1]):
            budget += min(rank, shares.shape[-1])
            offers += [(share, path, index) for share in shares[index][: round(rank * rho)] if share > 0]
    if len(offers) < budget:
        raise ConfigError(
            f"EVA: the inputs vary along {len(offers)} directions on these batches, and the config's ranks ask for {budget}; give more data, a lower "
            "rank or a larger rho."
        )
    found = {path: np.zeros(shares.shape[:-1], int) for path, (_, shares) in components.items()}
    for _, path, index in sorted(offers, key=lambda offer: -offer[0])[:budget]:
        found[path][index] += 1
    return found
