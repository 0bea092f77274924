"""Is an adapted model what it claims to be? Every adapter used, its update that of the merged kernel, the base untouched: one table, one verdict."""

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lora_jax.errors import TreeError
from lora_jax.intake import adapted, collections_given
from lora_jax.keys import plain
from lora_jax.leaves import MAGNITUDE, A, B, is_adapter_leaf, modules, name_of
from lora_jax.merge import merge
from lora_jax.norms import require_norms
from lora_jax.optim import lora_optimizer
from lora_jax.partition import combine, partition, trainable_mask
from lora_jax.products.function import lora
from lora_jax.tree import Params, flat, nested, opened, unboxed

TOLERANCE = 1e-4  # of the largest entry; float32 sums in another order
SIZE = 0.3  # of a random update, over its kernel
ROUNDING = 1e-5  # of the largest gradient of all adapters: one that is smaller may be zero but for rounding


@dataclasses.dataclass(frozen=True)
class Row:
    """Of one adapter, under random factors: the largest entry of its gradient, and how far that is from the gradient through the merged kernel.

    A gradient below `rounding` that differs from the merged kernel's tells nothing: the input leaves it nothing but rounding.
    """

    path: str
    gradient: float
    apart: float
    tolerance: float
    rounding: float = 0.0

    @property
    def holds(self) -> bool:
        return self.gradient > 0 and self.apart <= self.tolerance


@dataclasses.dataclass(frozen=True)
class Verification:
    """`apart`: the largest difference of outputs between side path and merged kernels, over the largest output. `moved`: leaves of the base that the
    masked optimiser moves when it is given a gradient for them."""

    rows: tuple[Row, ...]
    apart: float
    tolerance: float
    moved: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return self.apart <= self.tolerance and not self.moved and all(row.holds for row in self.rows)

    def __str__(self) -> str:
        width = max([len("adapter"), *(len(row.path) for row in self.rows)])
        lines = [f"{'adapter'.ljust(width)}  gradient  from merged"]
        lines += [
            f"{plain(row.path).ljust(width)}  {row.gradient:8.2g}  {row.apart:11.1e}{_said(row)}" for row in self.rows
        ]
        lines.append(f"outputs, side path against merged kernels: {self.apart:.1e} (at most {self.tolerance:g})")
        lines.append(
            f"the base under a masked optimiser: {'moved at ' + ', '.join(self.moved) if self.moved else 'unchanged, bit for bit'}"
        )
        return "\n".join([*lines, "holds" if self.holds else "DOES NOT HOLD"])


def _said(row: Row) -> str:
    if row.holds:
        return ""
    if not row.gradient > 0:
        return "  has no effect"
    if row.gradient < row.rounding:
        return "  is rounding on this input; give another"
    return "  is not the merged kernel's"


def verify(
    model: Any,
    params: Params,
    *args: Any,
    tolerance: float = TOLERANCE,
    collections: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Verification:
    """Tries an adapted model with random factors; `print` what it returns, or ask it `holds`.

    Args:
      model: a wrapper of `lora_jax` or `lora_jax.nnx`, or any function of `lora_jax.lora`'s kind, `fn(params, *args)`, as it is without adapters.
      params: the whole tree, base and adapters; it is not changed.
      *args, **kwargs: an input.
      collections: what else a linen model reads, {"batch_stats": ...} say.
      tolerance: of outputs and gradients, over their largest entries; for bfloat16 some 3e-2.

    >>> import flax.linen as nn
    >>> import lora_jax
    >>> model = lora_jax.LoRA(nn.Dense(4), lora_jax.LoRAConfig(rank=2, targets="*"))
    >>> params = model.init(jax.random.key(0), jnp.ones((1, 3)))["params"]
    >>> verify(model, params, jnp.ones((2, 3))).holds
    True
    """
    way = _way(model, collections or {}, args, kwargs)
    if not (isinstance(tolerance, (int, float)) and 0 <= tolerance < 1) or isinstance(tolerance, bool):
        raise TreeError(
            f"verify: the tolerance is {tolerance!r}; it is a share of the largest entry, a number below 1 such as 1e-4."
        )
    leaves = adapted(params, "verify: params")
    require_norms(leaves, "verify")
    params = _randomised(leaves)
    mask = trainable_mask(params)
    frozen, trainable = partition(params, mask)

    def tried(run: Callable) -> tuple[dict[str, Any], Any]:
        """Gradients and outputs, by one program."""
        whole = lambda trainable: run(combine(frozen, trainable))  # noqa: E731
        both = jax.jit(lambda trainable: (jax.grad(lambda own: _projected(whole(own)))(trainable), whole(trainable)))
        gradients, outputs = both(trainable)
        return flat(gradients), outputs

    merge(params)  # refuses values that are not finite, which a traced merge does not see
    with collections_given("verify"):
        own, side = tried(way)
    merged, plain = tried(lambda params: way(merge(params)))
    rows = _rows(modules(flat(params)), own, merged, tolerance)
    pairs = [
        (one, other)
        for one, other in zip(jax.tree.leaves(side), jax.tree.leaves(plain), strict=True)
        if _is_float(other)
    ]
    return Verification(rows, _largest(_apart(one, other) for one, other in pairs), tolerance, _moved(params, mask))


def _way(model: Any, collections: Mapping[str, Any], args: tuple, kwargs: dict[str, Any]) -> Callable:
    """params -> outputs."""
    if hasattr(model, "apply"):
        return lambda params: model.apply({**collections, "params": params}, *args, **kwargs)
    adapted = lora(model)
    return lambda params: adapted(params, *args, **kwargs)


def _randomised(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Both factors drawn, each layer's update some share of its kernel."""
    if not modules(leaves):
        raise TreeError("verify: these parameters hold no adapter; they are a base, or merged already.")

    def drawn(path: str, leaf: jax.Array) -> jax.Array:
        key = jax.random.key(zlib.crc32(path.encode()))
        if name_of(path) == MAGNITUDE:
            return leaf * (1 + SIZE * jax.random.uniform(key, leaf.shape, leaf.dtype))
        width = leaf.shape[-1] if name_of(path) == A else leaf.shape[-2]
        return jax.random.normal(key, leaf.shape, leaf.dtype) * (SIZE / width**0.5)

    return nested(
        {path: drawn(path, leaf) if name_of(path) in (A, B, MAGNITUDE) else leaf for path, leaf in leaves.items()}
    )


def _projected(outputs: Any) -> jax.Array:
    """A number in which every entry of the outputs counts otherwise."""
    total = jnp.zeros(())
    for k, leaf in enumerate(jax.tree.leaves(outputs)):
        if _is_float(leaf):
            total += jnp.sum(leaf.astype(jnp.float32) * jax.random.normal(jax.random.key(k), leaf.shape))
    return total


def _is_float(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _rows(places: list[str], own: dict[str, Any], merged: dict[str, Any], tolerance: float) -> tuple[Row, ...]:
    rows = [_row(module, own, merged, tolerance) for module in places]
    rounding = ROUNDING * max(row.gradient for row in rows)
    return tuple(dataclasses.replace(row, rounding=rounding) for row in rows)


def _row(module: str, own: dict[str, Any], merged: dict[str, Any], tolerance: float) -> Row:
    paths = [module + name for name in (A, B, MAGNITUDE) if module + name in own]
    return Row(
        path=module.rstrip("/") or "(root)",
        gradient=float(np.min([np.abs(np.asarray(own[path], np.float64)).max() for path in paths])),
        apart=_largest(_apart(own[path], merged[path]) for path in paths),
        tolerance=tolerance,
    )


def _apart(got: Any, expected: Any) -> float:
    """The largest difference, over the largest entry; nan where there is one."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    largest = np.abs(expected).max(initial=0.0)
    return float(np.abs(got - expected).max(initial=0.0) / (largest if largest > 0 else 1.0))


def _largest(values: Iterable[float]) -> float:
    """nan where one of them is, which Python's own `max` may pass over."""
    return float(np.max(list(values), initial=0.0))


def _moved(params: dict[str, Any], mask: Any) -> tuple[str, ...]:
    """Leaves of the base that an optimiser of the trainable ones changes, given a gradient for every leaf."""
    params = unboxed(params)
    tx = lora_optimizer(optax.sgd(1.0), mask)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    after = flat(optax.apply_updates(params, updates))
    base = {path: leaf for path, leaf in flat(params).items() if not is_adapter_leaf(path)}
    return tuple(path for path, leaf in base.items() if _bits(leaf) != _bits(after[path]))


def _bits(leaf: Any) -> list[bytes]:
    return [np.asarray(part).tobytes() for part in jax.tree.leaves(opened(leaf))]
