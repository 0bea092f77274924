"""EVA: adapters that begin where a layer's inputs vary most, with ranks where they explain most (Paischer et al. 2024, arXiv:2410.07170).

Section 3.2: the columns of `a` are the principal components of the layer's inputs on data of the task, `b` is zero; section 3.3: the
budget of ranks goes to the components, over all layers, that explain the largest share of their layer's variance.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lora_jax import targets
from lora_jax.adapter import adapt
from lora_jax.config import LoRAConfig
from lora_jax.errors import ConfigError, TargetError
from lora_jax.layers import bound, rule_for
from lora_jax.layout import layout
from lora_jax.leaves import SCALE, A, adapter_at, modules
from lora_jax.module import LoRA
from lora_jax.tree import Params, flat, nested


class _Moments(NamedTuple):
    """Of the inputs of one layer, or of L stacked ones."""

    count: jax.Array  # [*L]
    mean: jax.Array  # [*L, D]
    scatter: jax.Array  # [*L, D, D]: the sum of outer products of what differs from the mean


_LEAVES = tuple(f"eva_{name}" for name in _Moments._fields)  # beside a kernel while inputs are gathered


def adapt_to(
    key: jax.Array,
    base_params: Params,
    model: Any,
    batches: Iterable[Any],
    *,
    collections: Mapping[str, Any] | None = None,
    rho: int | float = 2.0,
) -> tuple[LoRA, dict]:
    """`(model, params)`: the wrapper with the ranks that were found in its config, and the base with its adapter.

    Layers that are no matrix product (Conv, Embed, some Einsums) keep the rank and the random `a` of the config. A layer that gets no rank is
    left out, as in PEFT. In a stack of layers ranks differ too: the narrower are padded with zeros, which stay zero. Scales are those of the
    config's rank.

    Args:
      batches: the model's arguments, a tuple for each batch; padding counts as data.
      collections: what else the model reads, {"batch_stats": ...} say.
      rho: a layer's rank is at most rho times the config's; 1 leaves ranks as they are.

    Raises:
      ConfigError: for a rho below 1, no batches, or a config whose factors begin in another way.
      TargetError: for a layer that a scan runs again and again with the same parameters (`variable_broadcast`).

    >>> base, x = nn.Dense(4), jnp.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, -0.1, 0.0]])
    >>> base_params = base.init(jax.random.key(0), x)["params"]
    >>> wrapped = LoRA(base, LoRAConfig(rank=1, targets="*"))
    >>> _, params = adapt_to(jax.random.key(1), base_params, wrapped, [(x,)])
    >>> jnp.abs(params["lora_a"]).round(3).tolist()
    [[1.0], [0.0], [0.0]]
    """
    if not isinstance(model, LoRA):
        raise ConfigError(
            f"EVA gathers inputs in flax.linen models that lora_jax.LoRA(module, config) wraps, and this is {type(model).__name__} of "
            f"{type(model).__module__}."
        )
    config = model.config
    if not rho >= 1:
        raise ConfigError(f"rho is {rho!r}; it must be at least 1.")
    if config.init != "lora":
        raise ConfigError(f"EVA draws the factors itself; the config's init is {config.init!r}, it must be 'lora'.")
    batches = list(batches)
    if not batches or not all(isinstance(args, tuple) for args in batches):
        raise ConfigError("EVA needs at least one batch of the task's data, each a tuple of the model's arguments.")
    variables = {**(collections or {}), "params": base_params}
    components = {path: _components(found) for path, found in _moments(variables, model, batches).items()}
    ranks = _distributed(components, config, rho)
    wide = {path: int(rank.max()) for path, rank in ranks.items()}
    model = model.with_config(_with_ranks(model, wide, batches[0]))
    leaves = flat(adapt(key, base_params, model, *batches[0]))
    for module in modules(leaves):
        path = module.rstrip("/")
        if path in components:
            adapter = adapter_at(leaves, module)
            leaves[module + A] = _columns(components[path][0], ranks[path], wide[path], adapter.a.shape)
            leaves[module + SCALE] = jnp.full_like(adapter.scale, _scale(config, path))
    return model, nested(leaves)


def _scale(config: LoRAConfig, path: str) -> float:
    rank, alpha = targets.rank_and_alpha(config, path)
    return config.scale(rank=rank, alpha=alpha)


def _with_ranks(model: LoRA, wide: Mapping[str, int], args: tuple) -> LoRAConfig:
    """The config with these ranks, every layer named exactly, and without the layers that got none."""
    config = model.config
    every = layout(model.base_module, *args)
    chosen = [path for path, site in every.items() if targets.is_target(config, path, is_linear=site.is_linear)]
    ranks = {path: wide.get(path, targets.rank_and_alpha(config, path)[0]) for path in chosen if wide.get(path, 1) > 0}
    alphas = {path: targets.rank_and_alpha(config, path)[1] for path in ranks}

    def named(values: Mapping[str, Any], usual: Any) -> dict[str, Any]:
        return {targets.exactly(path, every): value for path, value in values.items() if value != usual}

    return dataclasses.replace(
        config,
        targets=[targets.exactly(path, every) for path in ranks],
        excludes=(),
        rank_pattern=named(ranks, config.rank),
        alpha_pattern=named(alphas, config.alpha),
    )


def _columns(components: jax.Array, ranks: np.ndarray, wide: int, shape: tuple[int, ...]) -> jax.Array:
    """`a` [*L, D, wide]: of each layer its own number of components, then zeros."""
    kept = np.arange(wide) < ranks[..., None, None]
    return jnp.where(kept, components[..., :wide], 0).reshape(shape)


def _moments(variables: Mapping[str, Any], model: LoRA, batches: list[tuple]) -> dict[str, _Moments]:
    """path -> moments of the inputs of every targeted matrix product."""

    @jax.jit
    def gather(args):
        with nn.intercept_methods(_gatherer(model.config)):
            _, changed = model.base_module.apply(variables, *args, mutable=["params"])
        leaves = flat(changed["params"])
        places = [path.removesuffix(_LEAVES[0]) for path in leaves if path.rpartition("/")[2] == _LEAVES[0]]
        return {place.rstrip("/"): _Moments(*(leaves[place + name] for name in _LEAVES)) for place in places}

    total: dict[str, _Moments] = {}
    try:
        for args in batches:
            found = gather(args)
            total = {path: _merged(total[path], one) if path in total else one for path, one in found.items()}
    except ValueError as error:
        if "broadcasted variable" not in str(error):
            raise
        raise TargetError(
            f"EVA cannot gather the inputs of layers that a scan of {type(model.base_module).__name__} runs again with the same parameters "
            "(variable_broadcast); exclude them."
        ) from error
    return total


def _of_rows(rows: jax.Array) -> _Moments:
    """Centred first: of inputs far from zero, the mean of squares less the square of the mean keeps no digit.

    >>> _of_rows(jnp.array([[1000.0], [1002.0]])).scatter.tolist()
    [[2.0]]
    """
    mean = rows.mean(axis=0)
    centred = rows - mean[None]
    return _Moments(jnp.asarray(len(rows), jnp.float32), mean, centred.T @ centred)


def _merged(one: _Moments, other: _Moments) -> _Moments:
    """The moments of both sets of rows (Chan et al. 1979, "Updating formulae and a pairwise algorithm", equation 2.1)."""
    count = one.count + other.count
    share, step = other.count / count, other.mean - one.mean
    between = (one.count * share)[..., None, None] * step[..., :, None] * step[..., None, :]
    return _Moments(count, one.mean + share[..., None] * step, one.scatter + other.scatter + between)


def _gatherer(config: LoRAConfig) -> Callable:
    """An interceptor that puts the moments of a layer's inputs beside its kernel; nn.scan stacks them as it does parameters."""

    def interceptor(next_fun: Callable, args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext):
        module, rule = context.module, rule_for(context.module, context.orig_method.func)
        y = next_fun(*args, **kwargs)
        path = "/".join(module.path)
        if rule is None or module.scope is None or not targets.is_target(config, path, is_linear=rule.is_linear):
            return y
        _, inputs, rest = bound(next_fun, context.orig_method, args, kwargs)
        rows = rule.rows(module, nn.meta.unbox(module.scope.get_variable("params", rule.kernel)), inputs, *rest)
        if rows is not None and module.scope.is_mutable_collection("params"):
            moments = _of_rows(rows.astype(jnp.float32))
            if module.scope.has_variable("params", _LEAVES[0]):  # a layer may be called twice
                moments = _merged(_Moments(*(module.scope.get_variable("params", name) for name in _LEAVES)), moments)
            for name, value in zip(_LEAVES, moments, strict=True):
                module.scope.put_variable("params", name, value)
        return y

    return interceptor


def _components(moments: _Moments) -> tuple[jax.Array, np.ndarray]:
    """(principal components [*L, D, D] as columns, the share of the variance that each explains [*L, D]), largest first."""
    values, vectors = jnp.linalg.eigh(moments.scatter / moments.count[..., None, None])
    values = np.maximum(np.asarray(values, np.float64)[..., ::-1], 0)
    return vectors[..., ::-1], values / np.maximum(values.sum(axis=-1, keepdims=True), np.finfo(np.float64).tiny)


def _distributed(components: Mapping[str, tuple], config: LoRAConfig, rho: int | float) -> dict[str, np.ndarray]:
    """path -> rank of each layer [*L]: the budget, the sum of the config's ranks, goes to the components that explain most."""
    budget, offers = 0, []
    for path, (_, shares) in sorted(components.items()):
        rank, _ = targets.rank_and_alpha(config, path)
        for index in np.ndindex(*shares.shape[:-1]):
            budget += min(rank, shares.shape[-1])
            offers += [(share, path, index) for share in shares[index][: round(rank * rho)]]
    found = {path: np.zeros(shares.shape[:-1], int) for path, (_, shares) in components.items()}
    for _, path, index in sorted(offers, key=lambda offer: -offer[0])[:budget]:
        found[path][index] += 1
    return found
