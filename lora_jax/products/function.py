"""LoRA for any function of a parameter tree: the adapters lie beside their kernels, and the function never hears of them."""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lora_jax import axes, dora, starts, targets
from lora_jax.config import LoRAConfig
from lora_jax.errors import TreeError
from lora_jax.leaves import (
    Adapter,
    adapter_at,
    as_leaves,
    at_place,
    is_adapter_leaf,
    kernel_path,
    modules,
    require_fit,
    require_whole,
)  # fmt: skip
from lora_jax.products import places
from lora_jax.products.derivatives import warn_of_custom
from lora_jax.products.find import find
from lora_jax.products.roles import with_roles
from lora_jax.products.sides import Dense, Sides
from lora_jax.products.site import Site
from lora_jax.products.targeting import chosen
from lora_jax.products.trees import ARRAYS, Mark, divided, named, replayed
from lora_jax.tree import flat, is_box, nested, opened


def lora(
    fn: Callable,
    *,
    like: Any = None,
    dropout: float = 0.0,
    key: jax.Array | None = None,
    may_form: bool = True,
    dense_uses: list[Dense] | None = None,
    has_state: bool = False,
) -> Callable:
    """`fn(params, *args, **kwargs)`, of parameters among which adapters lie: every product with an adapted leaf gets its side path.

    Where a leaf goes on its way to a product does not matter: transposed, reshaped, sliced, cast, scanned over, shared, stacked. Before an operation
    without a rule `W + scale * a @ b` is formed, which is exact and dear (or refused, see `may_form`).

    Args:
      like: a tree of the structure that `fn` takes, where that is no nested dict (a list, an Equinox module); `params` is a nested dict whose
        paths are those of that tree's arrays.
      dropout: rate on the input of `a`; active where a key is given.
      may_form: False refuses, by a TargetError, what would form W + delta.
      dense_uses: a list that is filled with the places where W + delta was formed.
      has_state: `fn` gives (result, state); what state hands on of an adapted leaf comes as a `products.marked.Marked`, the leaf itself in it.

    Raises (when the result is called):
      TreeError: for an adapter that is not whole, has no kernel, or is of another kernel's shape.
      TargetError: see `may_form`.

    >>> def fn(params, x):
    ...     return x @ params["w"]
    >>> config = LoRAConfig(rank=2, targets="w")
    >>> params = adapt(jax.random.key(0), {"w": jnp.ones((3, 4))}, fn, config, jnp.ones((1, 3)))
    >>> {path: leaf.shape for path, leaf in params["w:io"].items()}
    {'lora_a': (3, 2), 'lora_b': (2, 4), 'lora_scale': ()}
    >>> lora(fn)(params, jnp.ones((1, 3))).tolist()
    [[3.0, 3.0, 3.0, 3.0]]
    """

    @functools.wraps(fn)
    def adapted(params: Any, *args: Any, **kwargs: Any) -> Any:
        base, marks = apart(params, like)
        sides = Sides(dropout=dropout, key=key, may_form=may_form)
        result = replayed(sides, fn, base, marks, args, kwargs, has_state)
        if dense_uses is not None:
            dense_uses[:] = sides.dense_uses
        return result

    return adapted


def apart(params: Mapping[str, Any], like: Any = None) -> tuple[Any, dict[str, Mark]]:
    """(the base's tree, array of it -> what is added). Raises TreeError as `lora` says."""
    leaves = flat(params)
    require_whole(leaves)
    base, marks = {path: leaf for path, leaf in leaves.items() if not is_adapter_leaf(path)}, {}
    for module in modules(leaves):
        path, adapter = kernel_path(leaves, module), adapter_at(leaves, module)
        shape = tuple(opened(leaves[path]).shape)
        require_fit(path, shape, adapter, module)
        array, is_latent = _array_of(path, leaves[path])
        term, gain = (
            places.term(adapter, shape, places.roles_of(module, shape, adapter)),
            _gain(module, leaves[path], adapter),
        )
        if array in marks and (gain is not None or marks[array].gain is not None):
            raise TreeError(f"{path} has two adapters, of which one has a magnitude (DoRA).")
        others = marks[array].terms if array in marks else ()
        marks[array] = Mark(path, [*others, term], gain, is_latent)
    return _as(base, like), marks


def _array_of(path: str, kernel: Any) -> tuple[str, bool]:
    """The path of the array that is the kernel, and whether it is its codes: in the box that Flax keeps it in, or a quantised one."""
    if not isinstance(kernel, nn.meta.AxisMetadata):
        return path, False
    inside = list(named(kernel))
    is_latent = len(inside) > 1 or hasattr(kernel, "codes")
    return f"{path}/{'codes' if is_latent else inside[0]}", is_latent


def _gain(module: str, kernel: Any, adapter: Adapter) -> jax.Array | None:
    """DoRA's magnitude over norm along the kernel's axes, and the rank's; None where there is no magnitude."""
    if adapter.magnitude is None:
        return None
    return at_place(module, dora.gain)(nn.meta.unbox(kernel), adapter)[..., None]


def _as(base: dict[str, Any], like: Any) -> Any:
    """The base's leaves in the structure that the function takes."""
    if like is None:
        return nested(base)
    wanted = named(like)
    strange = sorted(base.keys() ^ wanted.keys())
    if strange:
        raise TreeError(f"the parameters are not those of the tree `like`: they differ in {', '.join(strange[:3])}.")
    _, whole = divided(like)
    return whole([base[path] for path in wanted])


def adapt(key: jax.Array, params: Any, fn: Callable, config: LoRAConfig, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The parameters as a nested dict, with fresh adapters of the leaves that the config targets.

    Patterns speak of leaves (`layer/query/w`) or of the modules they are in (`layer/query`); "all-linear" is every leaf that a product reads, but
    lookups and convolutions.

    Args:
      params: of `fn`, any pytree of arrays.
      *args, **kwargs: an example input.

    Raises:
      TargetError: when a pattern selects no leaf that a product reads; it names the closest paths.

    Warns:
      CustomDerivativeWarning: where a product with such a leaf is inside of a function with a derivative of its own.

    >>> params = {"table": jnp.ones((5, 3)), "w": jnp.ones((2, 3, 4))}
    >>> fn = lambda params, ids: jnp.einsum("td,ndh->tnh", params["table"][ids], params["w"])
    >>> sorted(adapt(jax.random.key(0), params, fn, LoRAConfig(rank=2), jnp.array([1])))
    ['table', 'w', 'w:oio']
    """
    sites = find(fn, shapes_of(params), *args, **kwargs)
    return beside(key, named(params, is_leaf=is_box), sites, config)


def beside(key: jax.Array, leaves: Mapping[str, Any], sites: Mapping[str, Site], config: LoRAConfig) -> dict[str, Any]:
    """The leaves of a flat tree as a nested dict, with fresh adapters of those of these sites that the config targets. Raises as `adapt` does."""
    inner = next((path for path in leaves if is_adapter_leaf(path)), None)
    if inner is not None:
        raise TreeError(
            f"the base holds an adapter at {inner}: it is adapted already, or the model has a LoRA inside; strip or merge it first, or wrap one "
            "of the two models."
        )
    sites = chosen(config, with_roles(config, sites))
    warn_of_custom(sites)
    made: dict[str, Any] = {}
    for path, site in sites.items():
        kernel = nn.meta.unbox(leaves[path]) if starts.reads_base(config) else None
        if kernel is not None:
            starts.require_finite(path, kernel)
        own = jax.random.fold_in(key, zlib.crc32(path.encode()))
        made |= as_leaves(fresh(own, path, site, config, kernel), places.module_for(path, site.roles))
    return nested({**leaves, **made})


def shapes_of(params: Any) -> Any:
    """The tree with shapes for its arrays, out of the boxes that Flax or a quantised base keeps them in."""

    def shape_of(leaf: Any) -> Any:
        leaf = opened(leaf)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if isinstance(leaf, ARRAYS) or is_box(leaf) else leaf

    return jax.tree.map(shape_of, params, is_leaf=is_box)


def fresh(key: jax.Array, path: str, site: Site, config: LoRAConfig, kernel: Any = None) -> Adapter:
    """The adapter of a leaf, or of each of a stack; `kernel` is the leaf, where the config's start reads it.

    Leaves that are alike share a program, of one model or of several.
    """
    rank, alpha = targets.rank_and_alpha(config, *site.names)
    starts.require_room(path, config, rank, axes.matrices(site.shape, site.roles)[1:])
    own = dataclasses.replace(
        config, rank=rank, alpha=None, targets="all-linear", excludes=(), rank_pattern=(), alpha_pattern=(), roles=(), dropout=0.0
    )  # fmt: skip
    is_told = not site.is_beside
    alike = Alike(tuple(site.shape), site.roles, site.is_lookup, site.is_transposed, is_told, own)
    return _begun(key, kernel, config.scale(rank=rank, alpha=alpha), alike)


class Alike(NamedTuple):
    """What a fresh adapter's program depends on; `is_told`: the roles are in the name of its place. The config is of this rank."""

    shape: tuple[int, ...]
    roles: str
    is_lookup: bool
    is_transposed: bool
    is_told: bool
    config: LoRAConfig


@functools.partial(jax.jit, static_argnames="alike")
def _begun(key: jax.Array, kernel: Any, scale: Any, alike: Alike) -> Adapter:
    config, (stack, d, k) = alike.config, axes.matrices(alike.shape, alike.roles)

    def drawn(key):
        shape, random = ((k, d), "b") if alike.is_transposed else ((d, k), "a")
        return starts.drawn(key, config, shape, config.rank, random=random, is_embed=alike.is_lookup)

    a, b = drawn(key) if not stack else jax.vmap(drawn)(jax.random.split(key, math.prod(stack)))
    sides = [1 if role == "i" else size for size, role in zip(alike.shape, alike.roles, strict=True)]
    norm = jnp.ones(sides) if config.dora else None
    scales = jnp.full(stack, scale, jnp.float32)
    begun = Adapter(a.reshape(*stack, *a.shape[-2:]), b.reshape(*stack, *b.shape[-2:]), scales, norm=norm)
    if not starts.reads_base(config):
        return begun
    module = f"w{axes.MARK}{alike.roles}/" if alike.is_told else ""
    return at_place(module, functools.partial(starts.from_base, config))(kernel, begun)
