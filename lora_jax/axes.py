"""The roles of a kernel's axes, and the shapes of an adapter that follow from them.

A role is a letter: "i" an axis that is summed over (D), "o" a free one (K), "s" one that input and output share, a stack of layers or of experts. An
adapter's `a` is [*S, D, R], `b` [*S, R, K], its scale [*S], each group flattened in the kernel's order. Letters: R rank.
"""

import math
import re

MARK = ":"  # between a kernel's name and its roles, in the name of an adapter's place
IN_ORDER = re.compile(r"s*(i+o+|o+i+)")
Shape = tuple[int, ...]


def roles_in(module: str) -> tuple[str, str] | None:
    """(path of the kernel, its roles) that the name of an adapter's place tells; None where the adapter lies beside its kernel.

    >>> roles_in("layer/query/w:oio/"), roles_in("layer/query/")
    (('layer/query/w', 'oio'), None)
    """
    found = re.fullmatch(rf"(.+){MARK}([sio]+)/", module)
    return (found[1], found[2]) if found else None


def are_in_order(roles: str) -> bool:
    """Whether stacks come first, then all that is summed over or all that is free: such a kernel falls apart into two matrices as it lies.

    >>> are_in_order("sioo"), are_in_order("oi"), are_in_order("oio"), are_in_order("iso")
    (True, True, False, False)
    """
    return IN_ORDER.fullmatch(roles) is not None


def sizes(shape: Shape, roles: str) -> dict[str, Shape]:
    """The sizes of the axes of each role, in order.

    >>> sizes((2, 3, 4), "oio")
    {'s': (), 'i': (3,), 'o': (2, 4)}
    """
    return {role: tuple(size for size, of in zip(shape, roles, strict=True) if of == role) for role in "sio"}


def matrices(shape: Shape, roles: str) -> tuple[Shape, int, int]:
    """(S, D, K) of a kernel.

    >>> matrices((2, 3, 4), "oio")
    ((), 3, 8)
    """
    of = sizes(shape, roles)
    return of["s"], math.prod(of["i"]), math.prod(of["o"])


def in_order(roles: str) -> tuple[int, ...]:
    """The axes of a kernel, those that are shared first, then those that are summed over, then the free ones.

    >>> in_order("oiso")
    (2, 1, 0, 3)
    """
    return tuple(axis for role in "sio" for axis, of in enumerate(roles) if of == role)


def fit(shape: Shape, roles: str, a: Shape, b: Shape, scale: Shape) -> bool:
    """Whether matrices and scale of these shapes are those of such a kernel.

    >>> fit((2, 3, 4), "oio", (3, 5), (5, 8), ()), fit((2, 3, 4), "oio", (2, 5), (5, 12), ())
    (True, False)
    """
    if len(roles) != len(shape) or not a:
        return False
    stack, d, k = matrices(shape, roles)
    return scale == stack and a == (*stack, d, a[-1]) and b == (*stack, a[-1], k)
