"""Adapters of kernels that no layer class is known of, made from outside: after a model is initialised, by following its parameters."""

import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from lora_jax import targets
from lora_jax.config import LoRAConfig
from lora_jax.leaves import KERNELS, as_leaves, is_adapter_leaf, kernel_path, modules, name_of
from lora_jax.products import places
from lora_jax.products.derivatives import warn_of_custom
from lora_jax.products.find import find, is_matrix
from lora_jax.products.function import fresh
from lora_jax.products.roles import with_roles
from lora_jax.products.targeting import is_linear, names_of, selects
from lora_jax.tree import Params, flat, nested


def complete(
    key: jax.Array,
    params: Params,
    config: LoRAConfig,
    known: Iterable[tuple[str, bool]],
    fn: Callable,
    *args: Any,
    **kwargs: Any,
) -> dict[str, Any]:
    """The parameters with adapters of what is left: leaves that a product eats and that the config targets, of no layer that is `known`.

    Args:
      params: of `fn`, with the adapters of known layers.
      known: (path, is linear) of the layers that had their chance.

    Raises:
      TargetError: when a pattern of the config selects neither a known layer nor such a leaf.
    """
    known, leaves = set(known), flat(params)
    left = _unknown(leaves, {path for path, _ in known})
    sites = {}
    if _may_select(config, left, [path for path, _ in known]):
        base = nested({path: leaf for path, leaf in leaves.items() if not is_adapter_leaf(path)})
        found = find(fn, base, *args, **kwargs)
        sites = {path: site for path, site in found.items() if path in left and site.is_adaptable}
    linear = {(name, is_linear(site)) for path, site in sites.items() for name in names_of(path) if name}
    targets.count_matches(config, known | linear)
    made: dict[str, Any] = {}
    targeted = {
        path: site
        for path, site in sites.items()
        if any(selects(pattern, path, site) for pattern in config.targets)
        and not any(selects(pattern, path, site) for pattern in config.excludes)
    }
    warn_of_custom(targeted)
    for path, site in with_roles(config, targeted).items():
        own = jax.random.fold_in(key, zlib.crc32(path.encode()))
        made |= as_leaves(fresh(own, path, site, config, leaves[path]), places.module_for(path, site.roles))
    return nested({**leaves, **made})


def _unknown(leaves: Mapping[str, Any], known: set[str]) -> list[str]:
    """The matrices that are no known layer's kernel and have no adapter."""
    adapted = {kernel_path(leaves, module) for module in modules(leaves)}

    def is_known(path: str) -> bool:
        return name_of(path) in KERNELS and path.rpartition("/")[0] in known

    return [
        path
        for path, leaf in leaves.items()
        if not is_adapter_leaf(path) and path not in adapted and not is_known(path) and is_matrix(leaf)
    ]


def _may_select(config: LoRAConfig, left: list[str], known: list[str]) -> bool:
    """Whether a target speaks of one of these, or of no known layer, so that it is worth a trace."""
    if not left:
        return False
    return any(
        pattern == targets.ALL_LINEAR
        or any(targets.matches(pattern, name) for path in left for name in names_of(path))
        or not any(targets.matches(pattern, path) for path in known)
        for pattern in config.targets
    )
