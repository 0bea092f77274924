"""The side path at every product that a marked weight reaches: y = W x + scale * (x a) b."""

import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from lora_jax import lowrank
from lora_jax.errors import TargetError
from lora_jax.products.marked import Marked, formed, together
from lora_jax.products.replay import Context, Product, Use


class Dense(NamedTuple):
    """W + delta was formed: for the weight at `path`, before `use`. It is exact, and costs what a weight-shaped gradient costs."""

    path: str
    use: Use


class Sides(Context):
    """Adds the side paths.

    Args:
      dropout: rate on the input of `a`; active where there is a key.
      may_form: whether W + delta may be formed before an operation that has no rule; the calls are in `dense_uses`.
    """

    def __init__(self, *, dropout: float = 0.0, key: jax.Array | None = None, may_form: bool = True):
        super().__init__()
        self.key = key if dropout else None
        self._dropout, self._may_form, self._draws = dropout, may_form, 0
        self.dense_uses: list[Dense] = []

    def product(self, eqn: JaxprEqn, weight: Marked, x: Any, product: Product) -> jax.Array:
        gain, is_on_result = (None, True) if weight.gain is None else product.spread(weight.gain)
        if not is_on_result:  # the gain is that of the axes that are summed over here
            x, gain = x * gain.astype(x.dtype), None
        y = product.base(x)
        if x is not None and not jnp.issubdtype(x.dtype, jnp.inexact):
            x = x.astype(y.dtype)  # bytes, booleans: the product promotes them, and factors are no integers
        x = self._dropped(x)
        wide = lowrank.wide(y.dtype)
        sides = [product.side(term, x).astype(wide) for term in together(weight.terms)]
        if gain is None:
            return functools.reduce(operator.add, sides, y.astype(wide)).astype(y.dtype)
        gain = gain.astype(jnp.promote_types(jnp.float32, y.dtype))
        added, whole = functools.reduce(operator.add, sides), y.astype(wide)
        # Written so that it is y exactly where the gain is 1 and the side path 0.
        return (whole + ((gain - 1).astype(wide) * whole + gain.astype(wide) * added)).astype(y.dtype)

    def _dropped(self, x: Any) -> Any:
        """Inverted dropout; ids are looked up whole."""
        if self.key is None or x is None or not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        self._draws += 1
        keep = jax.random.bernoulli(jax.random.fold_in(self.key, self._draws), 1 - self._dropout, x.shape)
        return jnp.where(keep, x.astype(lowrank.wide(x.dtype)) / (1 - self._dropout), 0)

    def dense(self, value: Any, eqn: JaxprEqn | None = None) -> Any:
        if not isinstance(value, Marked):
            return value
        for path in dict.fromkeys(value.paths) if eqn is not None else ():
            use = self.use(eqn)
            self.dense_uses.append(Dense(path, use))
            if not self._may_form:
                raise TargetError(
                    f"{path} reaches {use}, which has no rule: its adapter would need W + delta there, and a gradient of the weight's shape; "
                    "exclude it, or allow it (may_form=True)."
                )
        return formed(value)
