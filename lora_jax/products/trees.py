"""Leaves of any pytree by name, and a function's program with some of them marked. What is no array stays what it is: a flag, a name, a function."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lora_jax.errors import TreeError
from lora_jax.keys import escaped
from lora_jax.products import nested  # noqa: F401  (its rules, and those of `operations`)
from lora_jax.products.marked import Marked, Term
from lora_jax.products.replay import Context, run

ARRAYS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)


def named(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """path -> array, of any pytree; the path is the keys, attributes and positions with "/" between them. What `is_leaf` says counts as an array.

    Raises:
      TreeError: for two leaves of one path, as a key 1 beside a key "1" makes them.

    >>> sorted(named({"layers": [{"w": np.ones(2)}, {"w": np.ones(3), "activation": max}]}))
    ['layers/0/w', 'layers/1/w']
    """
    found: dict[str, Any] = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]:
        path = "/".join(escaped(jax.tree_util.keystr((key,), simple=True)) for key in keys)
        if path in found:
            raise TreeError(f"two leaves of the parameters are called {path}; rename one.")
        if isinstance(leaf, ARRAYS) or (is_leaf is not None and is_leaf(leaf)):
            found[path] = leaf
    return found


DYNAMIC = (
    jax.Array,
    np.ndarray,
    jax.ShapeDtypeStruct,
)  # among arguments: a number of numpy's may be a switch or a size


def divided(tree: Any, arrays: tuple[type, ...] = ARRAYS) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """(the arrays of a tree, a function that puts others in their places).

    >>> arrays, whole = divided({"x": np.ones(2), "train": True})
    >>> len(arrays), whole(["y"])
    (1, {'train': True, 'x': 'y'})
    """
    leaves, structure = jax.tree.flatten(tree)
    places = [k for k, leaf in enumerate(leaves) if isinstance(leaf, arrays)]

    def whole(arrays: list[Any]) -> Any:
        filled = list(leaves)
        for place, array in zip(places, arrays, strict=True):
            filled[place] = array
        return jax.tree.unflatten(structure, filled)

    return [leaves[place] for place in places], whole


class Mark(NamedTuple):
    """What is added to an array of the parameters: terms and gain of the kernel at `path`, which the array is, or is the codes of."""

    path: str
    terms: Sequence[Term]
    gain: Any = None
    is_latent: bool = False


def replayed(
    context: Context,
    fn: Callable,
    params: Any,
    marks: Mapping[str, Mark],
    args: tuple,
    kwargs: Mapping[str, Any],
    has_state: bool = False,
) -> Any:
    """`fn(params, *args, **kwargs)` with these arrays of the parameters marked. Where it gives (result, state), state comes with its marks."""
    (leaves, params_of), (inputs, call_of) = divided(params), divided((args, dict(kwargs)), DYNAMIC)
    outputs_of: list[tuple[int, Callable]] = []

    def flat(leaves: list[Any], inputs: list[Any]) -> list[Any]:
        args, kwargs = call_of(inputs)
        outputs = fn(params_of(leaves), *args, **kwargs)
        arrays, whole = divided(outputs)
        outputs_of[:] = [(len(divided(outputs[0])[0]) if has_state else len(arrays), whole)]
        return arrays

    traced = jax.make_jaxpr(flat)(leaves, inputs)
    given = [_marked(leaf, marks.get(path)) for path, leaf in named(params).items()]
    context.program = traced.jaxpr
    outputs = run(context, traced.jaxpr, traced.consts, [*given, *inputs])
    count, whole = outputs_of[0]
    return whole([*map(context.dense, outputs[:count]), *outputs[count:]])


def _marked(leaf: Any, mark: Mark | None) -> Any:
    return leaf if mark is None else Marked(leaf, mark.terms, [mark.path] * len(mark.terms), mark.gain, mark.is_latent)
