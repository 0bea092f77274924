"""Where an adapter's leaves lie in a tree, and how its two matrices lie along the axes of their kernel.

An adapter's matrices are as `lora_jax.axes` says. A kernel called `kernel` or `embedding` whose axes are in order (or have K before D, where `a` is
[*S, K, R] and `b` [*S, R, D]) has them beside it. Every other kernel has them in a dict beside it, named by itself and its roles: `{"w": ...,
"w:oio": {"lora_a": ..., "lora_b": ..., "lora_scale": ...}}`. So merging, saving and counting need names and shapes alone.

Letters: R rank.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax import axes
from lora_jax.leaves import KERNELS, Adapter
from lora_jax.products.marked import Term, shaped, turned


def module_for(path: str, roles: str) -> str:
    """The place (with its slash) of the adapter of the kernel at `path`.

    >>> module_for("layer/query/kernel", "io"), module_for("layer/query/w", "oio"), module_for("kernel", "iso")
    ('layer/query/', 'layer/query/w:oio/', 'kernel:iso/')
    >>> module_for("x:io/kernel", "io")
    'x:io/kernel:io/'
    """
    head, slash, name = path.rpartition("/")
    is_misread = axes.roles_in(head + slash) is not None  # a module that is called so
    if name in KERNELS and axes.are_in_order(roles) and not is_misread:
        return head + slash
    return f"{path}{axes.MARK}{roles}/"


def kernel_at(place: str, leaf: str) -> str:
    """The path of the kernel whose adapter lies at a place (without its slash); `leaf` is its name, where the place does not tell.

    >>> kernel_at("layer/query", "kernel"), kernel_at("layer/query/w:oio", "w")
    ('layer/query/kernel', 'layer/query/w')
    """
    told = axes.roles_in(f"{place}/")
    return f"{place}/{leaf}".lstrip("/") if told is None else told[0]


def roles_beside(shape: tuple[int, ...], adapter: Adapter) -> str:
    """The roles of a kernel whose adapter lies beside it, as far as the factors need them: stack, what `a` spans, what `b` spans.

    >>> roles_beside((2, 3, 4, 5), Adapter(jnp.ones((2, 3, 7)), jnp.ones((2, 7, 20)), jnp.ones(2)))
    'sioo'
    """
    stack = adapter.scale.ndim
    d = adapter.a.shape[-2]
    at = next(at for at in range(stack + 1, len(shape) + 1) if math.prod(shape[stack:at]) == d)
    return "s" * stack + "i" * (at - stack) + "o" * (len(shape) - at)


def roles_of(module: str, shape: tuple[int, ...], adapter: Adapter) -> str:
    """The roles of the kernel's axes, from the name of the place or from shapes."""
    told = axes.roles_in(module)
    return roles_beside(shape, adapter) if told is None else told[1]


def term(adapter: Adapter, shape: tuple[int, ...], roles: str) -> Term:
    """The adapter's factors and its scale along the kernel's axes."""
    a, b = adapter.factors()
    of = axes.sizes(shape, roles)
    return (
        _along(a, (*of["s"], *of["i"]), shape, roles, "si"),
        _along(jnp.swapaxes(b, -1, -2), (*of["s"], *of["o"]), shape, roles, "so"),
        _along(adapter.scale[..., None], of["s"], shape, roles, "s"),
    )


def _along(
    matrix: jax.Array | np.ndarray, spanned: tuple[int, ...], shape: tuple[int, ...], roles: str, own: str
) -> jax.Array:
    """[*spanned sizes, R] as [*kernel axes or 1, R]; `own` are the roles spanned, in the order of the matrix's axes."""
    rank = matrix.shape[-1]
    order = [axis for role in own for axis, of in enumerate(roles) if of == role]
    matrix = shaped(matrix, (*spanned, rank))
    matrix = turned(matrix, [*(order.index(axis) for axis in sorted(order)), len(order)])
    return shaped(matrix, (*(size if of in own else 1 for size, of in zip(shape, roles, strict=True)), rank))
