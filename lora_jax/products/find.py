"""Which leaves of a parameter tree a function multiplies with something, along which axes, and where: found by following each, abstractly."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from lora_jax.products.marked import Marked, plain, spans
from lora_jax.products.outputs import last_products
from lora_jax.products.replay import Context, Product
from lora_jax.products.site import Site
from lora_jax.products.trees import Mark, divided, named, replayed


def find(fn: Callable, params: Any, *args: Any, **kwargs: Any) -> dict[str, Site]:
    """Every floating-point leaf of two axes or more, by its path. Nothing is computed; the function is traced once.

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
    sites = {path: Site(path, tuple(leaf.shape), leaf.dtype, "?" * leaf.ndim) for path, leaf in wanted.items()}

    arrays, whole = divided((params, args, kwargs))

    def probe(arrays):
        params, args, kwargs = whole(arrays)
        marks = {path: Mark(path, [_probes(leaf.shape)]) for path, leaf in wanted.items()}
        finding = Finding(sites)
        found, _ = divided(replayed(finding, fn, params, marks, args, kwargs))
        for path in last_products(finding.program, finding.eaters):
            sites[path].is_output = True
        return found

    jax.eval_shape(probe, arrays)
    return sites


def is_matrix(leaf: Any) -> bool:
    """Whether a leaf is an array of floating-point numbers with two axes or more."""
    return (
        hasattr(leaf, "shape")
        and hasattr(leaf, "dtype")
        and jnp.issubdtype(leaf.dtype, jnp.floating)
        and len(leaf.shape) >= 2
    )


def _probes(shape: Sequence[int]) -> tuple[jax.Array, ...]:
    """One factor for each axis, which spans it alone: where it ends up tells the axis's role."""
    return tuple(
        jnp.ones([size if i == axis else 1 for i, size in enumerate(shape)] + [1]) for axis in range(len(shape))
    )


class Finding(Context):
    """Writes down what is seen into `sites`, and adds nothing. `eaters` are the equations that a leaf's product is, with the leaves' paths."""

    def __init__(self, sites: dict[str, Site]):
        super().__init__()
        self._sites = sites
        self.eaters: dict[int, tuple[str, ...]] = {}

    def product(self, eqn: JaxprEqn, weight: Marked, x: Any, product: Product) -> jax.Array:
        for term, path in zip(weight.terms, weight.paths, strict=True):
            site = self._sites[path]
            use = self.use(eqn, _roles(site.shape, term, product.roles, weight.shape))
            if not site.uses:
                site.roles = use.roles
            site.uses.append(use)
        self.eaters[id(eqn)] = weight.paths
        return product.base(x)

    def summed(self, weight: Marked, what_is_left: Marked) -> Marked:
        """A probe whose axis was summed away has a rank of 2 from here on."""

        def told(before: jax.Array, after: jax.Array) -> jax.Array:
            return jnp.repeat(after, 2, -1) if spans(before) and not spans(after) else after

        terms = [tuple(map(told, *pair)) for pair in zip(weight.terms, what_is_left.terms, strict=True)]
        return what_is_left.with_terms(what_is_left.value, terms)

    def dense(self, value: Any, eqn: JaxprEqn | None = None) -> Any:
        if eqn is not None and isinstance(value, Marked):
            is_vector = sum(size > 1 for size in value.shape) < 2
            for path in dict.fromkeys(value.paths):
                (self._sites[path].vectors if is_vector else self._sites[path].dense).append(self.use(eqn))
        return plain(value)

    def stopped(self, eqn: JaxprEqn, weight: Marked, value: Any) -> Any:
        """An adapter would not train behind it: what comes is no use of the weight."""
        for path in dict.fromkeys(weight.paths):
            self._sites[path].stopped.append(self.use(eqn))
        return value

    def custom(self, eqn: JaxprEqn, paths: Sequence[str]) -> None:
        for path in paths:
            self._sites[path].custom.append(self.use(eqn))


def _is_summed(probe: jax.Array) -> bool:
    """Whether its axis was summed away before the product: the sum of the free factor along it is exact."""
    return probe.shape[-1] == 2


def _roles(shape: tuple[int, ...], term: Sequence[jax.Array], at_product: str, found: tuple[int, ...]) -> str:
    """The roles of a leaf's axes at a product that it reaches in the shape `found`, where the axes have the roles `at_product`."""
    dropped = len(shape) - len(found)  # by a scan, say: such axes come first
    is_as_it_was = dropped >= 0 and tuple(found) == shape[dropped:]
    # A piece of it, as a device of a mesh has: axes where they were, some of them 1 long.
    is_in_place = not dropped and all(set(spans(factor)) <= {axis} for axis, factor in enumerate(term))
    roles = ""
    for axis, (size, factor) in enumerate(zip(shape, term, strict=True)):
        if _is_summed(factor):
            roles += "o"
        elif is_in_place and not spans(factor):
            roles += at_product[axis]
        elif size != 1:
            roles += _role({at_product[to] for to in spans(factor)})
        elif is_as_it_was:
            roles += at_product[axis - dropped] if axis >= dropped else "s"
        else:
            roles += "?"  # an axis of size 1 cannot be followed
    return _filled(roles)


def _role(found: set[str]) -> str:
    """Of an axis whose factor spans axes of these roles at a product; none where a slice or a scan took it away."""
    return "i" if "i" in found else "o" if "o" in found else "s"


def _filled(roles: str) -> str:
    """Axes of size 1 take the role that is missing, or else that of their neighbour.

    >>> _filled("i?"), _filled("?io"), _filled("i?o")
    ('io', 'iio', 'ioo')
    """
    while "?" in roles:
        at = roles.index("?")
        missing = next((role for role in "io" if role not in roles), None)
        after = next((role for role in roles[at + 1 :] if role != "?"), None)
        roles = roles[:at] + (missing or after or roles[at - 1]) + roles[at + 1 :]
    return roles
