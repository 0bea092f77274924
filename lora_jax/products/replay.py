"""Runs a program again with some of its inputs marked: wherever a mark reaches a product, the context decides what is done there.

`Context` is what the two users differ in: `sides.Sides` adds the side path, `find.Finding` writes down which axes are summed over.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr, JaxprEqn

from lora_jax.leaves import OPENED
from lora_jax.products import relayouts
from lora_jax.products.marked import Marked, NoFactors, plain, spans, total
from lora_jax.products.private import bind, function_of, line_of, live, names_of, value_of, within

# primitive -> rule(context, equation, values, of which some are marked) -> outputs; `products` and `nested` put theirs here.
RULES: dict[str, Callable[..., list[Any]]] = {}
INNER: set[str] = set()  # of these, those that run programs


@dataclasses.dataclass(frozen=True)
class Use:
    """Where a weight is used: the operation, the user's modules, and her line; the roles of the weight's axes there."""

    operation: str
    module: str = ""
    line: str = ""
    roles: str = ""
    is_plain: bool = True  # False for a convolution with groups or dilation
    function: str = ""  # that has a derivative of its own, with its line

    @classmethod
    def of(cls, eqn: JaxprEqn, outer: Sequence[str], roles: str = "") -> "Use":
        """`outer` are the modules of the equations around it."""
        own = names_of(eqn)
        inside = [*outer[:-1], own] if outer and outer[-1] == own else [*outer, own]
        dilations = (*eqn.params.get("lhs_dilation", ()), *eqn.params.get("rhs_dilation", ()))
        is_plain = eqn.params.get("feature_group_count", 1) == 1 and all(step == 1 for step in dilations)
        function = function_of(eqn) if eqn.primitive.name.startswith("custom_") else ""
        return cls(eqn.primitive.name, "/".join(filter(None, inside)), line_of(eqn), roles, is_plain, function)

    def __str__(self) -> str:
        return f"{self.operation} in {self.module or 'the model'}" + (f" ({self.line})" if self.line else "")


class Product(NamedTuple):
    """One use of a weight: a role for each of its axes, and how it runs.

    `base(x)` is the operation itself; `side(term, x)` what a term adds; `spread(gain)` lays a gain along the result (True) or along x (False).
    `rows(factor, kept, x)` is x times a factor along all that is summed over, [*kept axes, N, R], or None where the factor spans something else.
    """

    roles: str
    base: Callable[[Any], jax.Array]
    side: Callable[[Any, Any], jax.Array]
    spread: Callable[[jax.Array], tuple[jax.Array, bool]] | None = None
    rows: Callable[[jax.Array, tuple[int, ...], Any], jax.Array | None] | None = None


class Context:
    """What is done at a product, and before an operation without a rule: here nothing, and the program runs on the weights as they are."""

    key: jax.Array | None = None  # of dropout, that of the trace we are in
    program: Jaxpr | None = None  # what is replayed

    def __init__(self):
        self._outer: list[str] = []  # modules of the equations that we are inside

    def use(self, eqn: JaxprEqn, roles: str = "") -> Use:
        return Use.of(eqn, self._outer, roles)

    @contextlib.contextmanager
    def inside(self, eqn: JaxprEqn) -> Iterator[None]:
        depth = len(self._outer)
        self._outer.append(names_of(eqn))
        try:
            yield
        finally:
            del self._outer[depth:]

    @contextlib.contextmanager
    def with_key(self, key: jax.Array | None) -> Iterator[None]:
        """Within another trace the key is that trace's."""
        before, self.key = self.key, key
        try:
            yield
        finally:
            self.key = before

    def product(self, eqn: JaxprEqn, weight: Marked, x: Any, product: "Product") -> jax.Array:
        """The result of a product of x and the weight, with whatever is added to it."""
        return product.base(x)

    def summed(self, weight: Marked, what_is_left: Marked) -> Marked:
        """A weight of which axes were summed away before any product."""
        return what_is_left

    def dense(self, value: Any, eqn: JaxprEqn | None = None) -> Any:
        """The value without marks, before an equation that has no rule for them; None: it is the program's own output."""
        return plain(value)

    def settled(self, value: Any, eqn: JaxprEqn) -> Any:
        """The value before an equation that has no rule: what was looked up of a table is a product, of all else W + delta is formed."""
        if not isinstance(value, Marked) or value.rows is None or value.gain is not None:
            return self.dense(value, eqn)
        lookup, factors = value.rows
        picked = {axis for term in value.terms for k in factors for axis in spans(term[k])}
        product = Product(
            "".join("i" if axis in picked else "o" for axis in range(len(value.shape))),
            base=lambda _: value.value,
            side=lambda term, _: total(term, value.shape),
        )
        return self.product(lookup, value, None, product)

    def stopped(self, eqn: JaxprEqn, weight: Marked, value: Any) -> Any:
        """The weight behind a `stop_gradient`: its factors are stopped too."""
        return weight.each(value, jax.lax.stop_gradient)

    def custom(self, eqn: JaxprEqn, paths: Sequence[str]) -> None:
        """A function with a derivative of its own has products with the weights of these paths inside."""


def run(context: Context, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """The program's outputs, marked where a weight is handed on."""
    known = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, args, strict=True))
    for eqn in live(jaxpr):
        values = [value_of(atom, known) for atom in eqn.invars]
        with within(eqn):
            known.update(zip(eqn.outvars, _step(context, eqn, values), strict=True))
    return [value_of(atom, known) for atom in jaxpr.outvars]


def _step(context: Context, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    if not any(isinstance(value, Marked) for value in values):
        return bind(eqn, values)
    name = eqn.primitive.name
    with context.inside(eqn):
        try:
            latent = next((value for value in values if isinstance(value, Marked) and value.is_latent), None)
            if latent is not None and name not in INNER:
                return _opening(eqn, latent, values)
            if name in relayouts.RULES:
                return relayouts.RULES[name](eqn, values)
            if name in RULES:
                return RULES[name](context, eqn, values)
        except NoFactors:
            pass
        return bind(eqn, [context.settled(value, eqn) for value in values])


def _opening(eqn: JaxprEqn, latent: Marked, values: list[Any]) -> list[Any]:
    """Codes on their way to the weight that they are: until the tag that `quantised.Quantised.unbox` leaves, everything made of them is latent."""
    outputs = bind(eqn, [plain(value) for value in values])
    is_open = eqn.primitive.name == "name" and eqn.params["name"] == OPENED
    return [Marked(out, latent.terms, latent.paths, latent.gain, not is_open) for out in outputs]
