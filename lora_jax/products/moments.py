"""What a weight's products read: the mean and the scatter of its inputs, gathered in one replay, whatever program the product is in.

Every weight carries a tap, which nothing reads. At a product, a function that is zero is added, whose derivative with respect to the tap is what
is to be summed. So the sums over uses, over the layers of a scan and over its rounds are those of a gradient.

Letters: D inputs of a product, L the axes of a stack, N rows.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from lora_jax import axes
from lora_jax.products.marked import Marked, spans
from lora_jax.products.replay import Context, Product
from lora_jax.products.site import Site
from lora_jax.products.trees import Mark, replayed


class Moments(NamedTuple):
    """Of the inputs of one kernel, or of L stacked ones."""

    count: jax.Array  # [*L]
    mean: jax.Array  # [*L, D]
    scatter: jax.Array  # [*L, D, D]: the sum of outer products of what differs from the mean


def moments(fn: Callable, params: Any, sites: Mapping[str, Site], batches: Iterable[tuple]) -> dict[str, Moments]:
    """path -> moments of what the products of each of these leaves read; a leaf whose products are no `dot_general` of all its inputs is left out.

    Args:
      fn: `fn(params, *args)`. params: a tree of plain arrays. batches: of args.

    >>> fn = lambda params, x: x @ params["w"]
    >>> from lora_jax.products import find
    >>> params, x = {"w": jnp.ones((1, 2))}, jnp.array([[1000.0], [1002.0]])
    >>> found = moments(fn, params, find(fn, params, x), [(x,)])["w"]
    >>> found.mean.tolist(), found.scatter.tolist()
    ([1001.0], [[2.0]])
    """
    batches = list(batches)
    zeros = {path: jnp.zeros((*site.stack, _width(site))) for path, site in sites.items()}
    sums = _summed(fn, params, sites, batches, zeros, _sum_and_count, lambda d: d + 1)
    seen = {path: total for path, total in sums.items() if bool((total[..., -1] > 0).all())}
    means = {path: total[..., :-1] / total[..., -1:] for path, total in seen.items()}
    sites = {path: sites[path] for path in seen}
    # Centred first: of inputs far from zero, the mean of squares less the square of the mean keeps no digit.
    scatters = _summed(fn, params, sites, batches, means, _scatter, lambda d: d * d)
    return {
        path: Moments(seen[path][..., -1], mean, scatters[path].reshape(*mean.shape, -1))
        for path, mean in means.items()
    }


def _width(site: Site) -> int:
    return axes.matrices(site.shape, site.roles)[1]


def _summed(fn, params, sites, batches, means, what: Callable, size: Callable[[int], int]) -> dict[str, jax.Array]:
    """path -> the sum over rows of `what(rows, mean)`, [*L, size(D)]."""

    @jax.jit
    def of_batch(taps, args):
        return jax.grad(lambda taps: _run(fn, params, sites, taps, means, what, args))(taps)

    total = {path: jnp.zeros((*site.stack, size(_width(site)))) for path, site in sites.items()}
    for args in batches:
        total = jax.tree.map(jnp.add, total, of_batch(jax.tree.map(jnp.zeros_like, total), args))
    return total


def _run(fn, params, sites, taps, means, what, args) -> jax.Array:
    marks = {
        path: Mark(path, [(_identity(site), _along(site, means[path]), _along(site, taps[path]))])
        for path, site in sites.items()
    }
    outputs = jax.tree.leaves(replayed(Gathering(what), fn, params, marks, args, {}))
    return sum((jnp.sum(out.astype(jnp.float32)) for out in outputs if jnp.issubdtype(out.dtype, jnp.floating)), 0.0)


def _identity(site: Site) -> jax.Array:
    """A factor along the axes that are summed over, of rank D: times an input it is the input's row."""
    sizes = [size if role == "i" else 1 for size, role in zip(site.shape, site.roles, strict=True)]
    return jnp.eye(_width(site)).reshape(*sizes, -1)


def _along(site: Site, value: jax.Array) -> jax.Array:
    """[*L, ...] along the kernel's axes, and one more."""
    sizes = [size if role == "s" else 1 for size, role in zip(site.shape, site.roles, strict=True)]
    return value.reshape(*sizes, -1)


def _sum_and_count(rows: jax.Array, mean: jax.Array) -> jax.Array:
    return jnp.concatenate([rows.sum(axis=-2), jnp.full((*rows.shape[:-2], 1), rows.shape[-2], rows.dtype)], axis=-1)


def _scatter(rows: jax.Array, mean: jax.Array) -> jax.Array:
    centred = rows - mean[..., None, :]
    scatter = jnp.swapaxes(centred, -1, -2) @ centred
    return scatter.reshape(*scatter.shape[:-2], -1)


class Gathering(Context):
    """Adds to every product nothing, with `what(rows, mean)` as its derivative by the tap."""

    def __init__(self, what: Callable):
        super().__init__()

        @jax.custom_vjp
        def nothing(tap, rows, mean):
            return jnp.zeros(())

        def backward(residuals, cotangent):
            rows, mean = residuals
            return what(rows, mean), jnp.zeros_like(rows), jnp.zeros_like(mean)

        nothing.defvjp(lambda tap, rows, mean: (nothing(tap, rows, mean), (rows, mean)), backward)
        self._nothing = nothing

    def product(self, eqn: JaxprEqn, weight: Marked, x: Any, product: Product) -> jax.Array:
        y = product.base(x)
        for identity, mean, tap in weight.terms if product.rows is not None else ():
            rows = product.rows(identity, spans(tap), x.astype(jnp.promote_types(x.dtype, jnp.bfloat16)))
            if rows is not None:
                own = [value.reshape(*rows.shape[:-2], -1) for value in (tap, mean)]
                y = y + self._nothing(own[0], rows.astype(jnp.float32), own[1]).astype(y.dtype)
        return y
