"""Which leaves of a parameter tree a function multiplies with something, along which axes, and where: found by following each, abstractly."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from lora_jax.products.marked import Marked, plain, spans
from lora_jax.products.private import function_of
from lora_jax.products.replay import Context, Product, Use
from lora_jax.products.trees import Mark, divided, named, replayed


@dataclasses.dataclass
class Site:
    """What becomes of one leaf.

    `roles` has a letter for each axis, as the first product has them: "i" summed over (or looked up), "o" free (or summed away before the
    product), "s" shared by input and output (a stack of layers, experts, a batch), "?" where no product was seen. `uses` are the products, `dense`
    the operations that have no rule, `custom` the functions with a derivative of their own inside of which a product eats the leaf.

    >>> Site((2, 3, 4), jnp.float32, "oio").is_adaptable
    True
    """

    shape: tuple[int, ...]
    dtype: Any
    roles: str
    uses: list[Use] = dataclasses.field(default_factory=list)
    dense: list[Use] = dataclasses.field(default_factory=list)
    custom: list[tuple[str, Use]] = dataclasses.field(default_factory=list)

    @property
    def is_adaptable(self) -> bool:
        """Whether a product eats it: it has axes that are summed over and axes that are free."""
        return "i" in self.roles and "o" in self.roles

    @property
    def is_lookup(self) -> bool:
        """Whether rows of it are looked up, and nothing else is done with it first."""
        return bool(self.uses) and self.uses[0].operation == "gather"

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def find(fn: Callable, params: Any, *args: Any, **kwargs: Any) -> dict[str, Site]:
    """Every floating-point leaf of two axes or more (longer than 1), by its path. Nothing is computed; the function is traced once.

    Args:
      fn: `fn(params, *args, **kwargs)`, any JAX function of a parameter tree.
      params: the tree; arrays or their shapes (`jax.ShapeDtypeStruct`).

    >>> import jax
    >>> def fn(params, x):
    ...     return jnp.einsum("btd,ndh->btnh", x, params["q"]) @ params["out"].T
    >>> params = {"q": jnp.ones((2, 3, 4)), "out": jnp.ones((5, 4))}
    >>> {path: site.roles for path, site in find(fn, params, jnp.ones((1, 6, 3))).items()}
    {'out': 'oi', 'q': 'oio'}
    """
    names = named(params)
    wanted = {path: leaf for path, leaf in names.items() if is_matrix(leaf)}
    sites = {path: Site(tuple(leaf.shape), leaf.dtype, "?" * leaf.ndim) for path, leaf in wanted.items()}

    arrays, whole = divided((params, args, kwargs))

    def probe(arrays):
        params, args, kwargs = whole(arrays)
        marks = {path: Mark(path, [_probes(leaf.shape)]) for path, leaf in wanted.items()}
        found, _ = divided(replayed(Finding(sites), fn, params, marks, args, kwargs))
        return found

    jax.eval_shape(probe, arrays)
    return sites


def is_matrix(leaf: Any) -> bool:
    """Whether a leaf is an array of floating-point numbers with two axes or more that are longer than 1."""
    return (
        hasattr(leaf, "shape")
        and hasattr(leaf, "dtype")
        and jnp.issubdtype(leaf.dtype, jnp.floating)
        and sum(size > 1 for size in leaf.shape) >= 2
    )


def _probes(shape: Sequence[int]) -> tuple[jax.Array, ...]:
    """One factor for each axis, which spans it alone: where it ends up tells the axis's role."""
    return tuple(
        jnp.ones([size if i == axis else 1 for i, size in enumerate(shape)] + [1]) for axis in range(len(shape))
    )


class Finding(Context):
    """Writes down what is seen into `sites`, and adds nothing."""

    def __init__(self, sites: dict[str, Site]):
        super().__init__()
        self._sites = sites

    def product(self, eqn: JaxprEqn, weight: Marked, x: Any, product: Product) -> jax.Array:
        for term, path in zip(weight.terms, weight.paths, strict=True):
            site = self._sites[path]
            if not site.uses:
                # A factor of size 1 says nothing: neither does its axis.
                site.roles = "".join(
                    "s"
                    if size == 1
                    else "o"
                    if _is_summed(factor)
                    else _role({product.roles[axis] for axis in spans(factor)})
                    for size, factor in zip(site.shape, term, strict=True)
                )
            site.uses.append(self.use(eqn))
        return product.base(x)

    def summed(self, weight: Marked, what_is_left: Marked) -> Marked:
        """A probe whose axis was summed away has a rank of 2 from here on."""

        def told(before: jax.Array, after: jax.Array) -> jax.Array:
            return jnp.repeat(after, 2, -1) if spans(before) and not spans(after) else after

        terms = [tuple(map(told, *pair)) for pair in zip(weight.terms, what_is_left.terms, strict=True)]
        return what_is_left.with_terms(what_is_left.value, terms)

    def dense(self, value: Any, eqn: JaxprEqn | None = None) -> Any:
        if eqn is not None and isinstance(value, Marked):
            for path in dict.fromkeys(value.paths):
                self._sites[path].dense.append(self.use(eqn))
        return plain(value)

    def custom(self, eqn: JaxprEqn, paths: Sequence[str]) -> None:
        for path in paths:
            self._sites[path].custom.append((function_of(eqn), self.use(eqn)))


def _is_summed(probe: jax.Array) -> bool:
    """Whether its axis was summed away before the product: the sum of the free factor along it is exact."""
    return probe.shape[-1] == 2


def _role(found: set[str]) -> str:
    """Of an axis whose factor spans axes of these roles at a product; none where a slice or a scan took it away."""
    return "i" if "i" in found else "o" if "o" in found else "s"
