"""What an adapter is made of: the leaves beside one kernel W [D, K], and the one pair of factors they amount to.

Letters: D features in, K features out, R rank, L stacked layers. The update is `scale * (a @ b - start_a @ start_b)`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax import axes
from lora_jax.errors import TreeError
from lora_jax.tree import opened

A, B, SCALE = "lora_a", "lora_b", "lora_scale"
START_A, START_B = "lora_start_a", "lora_start_b"
MAGNITUDE, NORM = "lora_magnitude", "lora_norm"
TRAINABLE = (A, B, MAGNITUDE)
PARTNER = {A: B, START_A: START_B}  # factors whose ranks belong together
KERNELS = ("kernel", "embedding")
OPENED = "lora_jax.opened"  # the tag of a quantised kernel where it is opened


class Adapter(NamedTuple):
    """The adapter of one layer, or of L stacked ones; what a variant lacks is None."""

    a: Any  # [*L, D, R]
    b: Any  # [*L, R, K]
    scale: Any  # [*L]
    start_a: Any = None  # [*L, D, R], frozen: where PiSSA's and OLoRA's a began
    start_b: Any = None  # [*L, R, K], frozen
    magnitude: Any = None  # DoRA's m: the kernel's shape, with 1 on the axes that the layer sums over
    norm: Any = None  # frozen: the norms of the base's kernel, of m's shape

    def factors(self) -> tuple[Any, Any]:
        """a [*L, D, R'] and b [*L, R', K] with `update = scale * a @ b`: R' is R, or 2 R for [a | start_a], [b; -start_b].

        >>> one = jnp.ones((1, 1))
        >>> Adapter(one, one, jnp.ones(()), 2 * one, one).factors()[1].tolist()
        [[1.0], [-1.0]]
        """
        if self.start_a is None:
            return self.a, self.b
        return jnp.concatenate([self.a, self.start_a], axis=-1), jnp.concatenate([self.b, -self.start_b], axis=-2)

    def per_layer(self, function: Callable) -> Callable:
        """`function`, written for one layer, over the stacked axes L of this adapter; every argument has them in front."""
        for _ in range(self.scale.ndim):
            function = jax.vmap(function)
        return function


def at_place(module: str, function: Callable) -> Callable:
    """`function(kernel, adapter)`, written for one layer whose kernel falls apart into two matrices as it lies, for an adapter at a place.

    Where the place's name tells the kernel's roles (`axes.roles_in`), the kernel and the adapter's magnitude and norm come with their axes in
    order, and what comes of them (an array of as many axes, or an adapter) is laid as the kernel is.

    Args:
      module: the adapter's place, a path with its slash.
    """
    told = axes.roles_in(module)
    if told is None:
        return lambda kernel, adapter: adapter.per_layer(function)(kernel, adapter)
    order = axes.in_order(told[1])
    back = tuple(order.index(axis) for axis in range(len(order)))

    def laid(value: Any, axes: tuple[int, ...]) -> Any:
        if not isinstance(value, Adapter):
            return value.transpose(axes)
        return value if value.norm is None else value._replace(**_each_laid(value, axes))

    def placed(kernel: Any, adapter: Adapter) -> Any:
        ordered = laid(adapter, order)
        return laid(ordered.per_layer(function)(kernel.transpose(order), ordered), back)

    return placed


def _each_laid(adapter: Adapter, axes: tuple[int, ...]) -> dict[str, Any]:
    each = {"magnitude": adapter.magnitude, "norm": adapter.norm}
    return {name: None if leaf is None else leaf.transpose(axes) for name, leaf in each.items()}


NAMES = (A, B, SCALE, START_A, START_B, MAGNITUDE, NORM)  # in the order of Adapter's fields


def is_adapter_leaf(path: str) -> bool:
    """Whether the leaf at this path belongs to an adapter rather than to the base.

    >>> is_adapter_leaf("head/lora_a"), is_adapter_leaf("head/kernel")
    (True, False)
    """
    return name_of(path) in NAMES


def name_of(path: str) -> str:
    """The last part of a path."""
    return path.rpartition("/")[2]


def owner(path: str) -> str:
    """The module (with its slash) that holds a leaf.

    >>> owner("layer/query/kernel"), owner("kernel")
    ('layer/query/', '')
    """
    return path.removesuffix(name_of(path))


def modules(leaves: Mapping[str, Any]) -> list[str]:
    """The adapted modules of a flat tree, each a path with its slash ("" at the root).

    >>> modules({"head/kernel": 1, "head/lora_a": 2})
    ['head/']
    """
    return [path.removesuffix(A) for path in leaves if name_of(path) == A]


def adapter_at(leaves: Mapping[str, Any], module: str) -> Adapter:
    """The adapter of a module (a path with its slash) in a flat tree.

    Raises:
      TreeError: when a part of it is missing.
    """
    adapter = Adapter(*(leaves.get(module + name) for name in NAMES))
    pairs = (
        (B, adapter.b is None),
        (SCALE, adapter.scale is None),
        (START_B, (adapter.start_a is None) != (adapter.start_b is None)),
    )
    missing = [name for name, lacks in (*pairs, (NORM, (adapter.magnitude is None) != (adapter.norm is None))) if lacks]
    if missing:
        raise TreeError(
            f"the adapter at {module + A} is not whole: {', '.join(missing)} or its partner is not beside it."
        )
    return adapter


def as_leaves(adapter: Adapter, module: str = "") -> dict[str, Any]:
    """The inverse of `adapter_at`: path -> leaf, without what is None."""
    return {module + name: leaf for name, leaf in zip(NAMES, adapter, strict=True) if leaf is not None}


def kernel_paths(module: str) -> list[str]:
    """Where the kernel of an adapter at this place (a path with its slash) may be.

    >>> kernel_paths("head/"), kernel_paths("head/w:oio/")
    (['head/kernel', 'head/embedding'], ['head/w'])
    """
    told = axes.roles_in(module)
    return [module + name for name in KERNELS] if told is None else [told[0]]


def owners(leaves: Mapping[str, Any]) -> set[str]:
    """The modules (with their slashes) that hold the adapted kernels of a flat tree, wherever the adapters lie.

    >>> owners({"head/kernel": 1, "head/lora_a": 2}), owners({"q/w": 1, "q/w:io/lora_a": 2})
    ({'head/'}, {'q/'})
    """
    return {owner(path) for module in modules(leaves) for path in kernel_paths(module)}


def kernel_path(leaves: Mapping[str, Any], module: str) -> str:
    """The path of the kernel that the adapter at `module` (a path with its slash) belongs to.

    Raises:
      TreeError: when there is none, as in an adapter without its base.
    """
    path = next((path for path in kernel_paths(module) if path in leaves), None)
    if path is None:
        raise TreeError(
            f"there is an adapter at {module + A} and no kernel beside it; pass the whole tree, base and adapter: "
            "lora_jax.combine(base_params, adapter)."
        )
    return path


def require_whole(leaves: Mapping[str, Any]) -> None:
    """Raises TreeError where an adapter in a flat tree lacks a part: `lora_a`, by which adapters are found, or one of the others.

    >>> require_whole({"head/kernel": 1, "head/lora_a": 2, "head/lora_b": 3, "head/lora_scale": 4})
    """
    for path in leaves:
        module = path.removesuffix(name_of(path))
        if is_adapter_leaf(path) and module + A not in leaves:
            beside = sorted(name_of(other) for other in leaves if other.removesuffix(name_of(other)) == module)
            raise TreeError(
                f"there is {path} and no {A} beside it, only {', '.join(beside)}: the adapter would be ignored; give it its {A}, or take "
                "the others out (lora_jax.strip)."
            )
    for module in modules(leaves):
        adapter_at(leaves, module)  # raises where another part is missing


def require_fit(path: str, kernel_shape: tuple[int, ...], adapter: Adapter, module: str = "") -> None:
    """Raises TreeError where the factors, the scale or the magnitude are not those of a kernel of this shape.

    Args:
      module: the adapter's place, whose name may tell the roles of the kernel's axes (`axes.roles_in`).
    """
    told = axes.roles_in(module)
    shapes = Adapter(*(None if leaf is None else tuple(np.shape(opened(leaf))) for leaf in adapter))
    kernel = tuple(kernel_shape)
    fits = _fits_beside(kernel, shapes) if told is None else _fits_roles(kernel, told[1], shapes)
    if not fits:
        found = ", ".join(f"{name} {shape}" for name, shape in as_leaves(shapes).items())
        raise TreeError(
            f"{path} {tuple(kernel_shape)} does not fit {found}: they are of another layer, or transposed; layers may be stacked along "
            "axis 0 of their parameters only."
        )


def _fits_beside(kernel: tuple[int, ...], shapes: Adapter) -> bool:
    return _factors_fit(kernel, shapes) and _magnitude_fits(kernel, shapes)


def _fits_roles(kernel: tuple[int, ...], roles: str, shapes: Adapter) -> bool:
    if not axes.fit(kernel, roles, *shapes[:3]):
        return False
    if shapes.start_a is not None and not axes.fit(kernel, roles, shapes.start_a, shapes.start_b, shapes.scale):
        return False
    norm = tuple(1 if role == "i" else size for size, role in zip(kernel, roles, strict=True))
    return shapes.magnitude is None or shapes.magnitude == shapes.norm == norm


def _factors_fit(kernel: tuple[int, ...], shapes: Adapter) -> bool:
    stack = shapes.scale
    layer = kernel[len(stack) :]
    splits = [(math.prod(layer[:at]), math.prod(layer[at:])) for at in range(1, len(layer) + 1)]

    def pair_fits(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        return any(a[:-1] == (*stack, d) and b == (*stack, *a[-1:], k) for d, k in splits)

    if kernel[: len(stack)] != stack or not pair_fits(shapes.a, shapes.b):
        return False
    return shapes.start_a is None or (
        pair_fits(shapes.start_a, shapes.start_b) and shapes.start_a[:-1] == shapes.a[:-1]
    )


def _magnitude_fits(kernel: tuple[int, ...], shapes: Adapter) -> bool:
    """Whether a magnitude has the kernel's sizes, or 1 where the layer sums."""
    if shapes.magnitude is None:
        return True
    lead = len(shapes.scale)
    return (
        shapes.magnitude == shapes.norm
        and len(kernel) == len(shapes.norm)
        and kernel[:lead] == shapes.norm[:lead]
        and all(size in (1, whole) for size, whole in zip(shapes.norm, kernel, strict=True))
    )
