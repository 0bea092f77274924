"""Parameters of an NNX model in the forms in which NNX hands them out, as the tree that the library uses."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from lora_jax.keys import escaped
from lora_jax.tree import nested


def named(path: Sequence[Any]) -> str:
    """A path of NNX as one of a flat tree.

    >>> named(("layers", 0, "kernel"))
    'layers/0/kernel'
    """
    return "/".join(escaped(str(key)) for key in path)


def as_tree(params: Any) -> Any:
    """An `nnx.State`, or a pure dict of one (its keys may be numbers), as nested dicts with names; a tree of such dicts stays what it is.

    Of a State the `nnx.Param`s are taken.

    >>> model = nnx.Sequential(nnx.Linear(2, 2, use_bias=False, rngs=nnx.Rngs(0)))
    >>> jax.tree.map(lambda leaf: leaf.shape, as_tree(nnx.to_pure_dict(nnx.state(model))))
    {'layers': {'0': {'kernel': (2, 2)}}}
    """
    if isinstance(params, nnx.State):
        flat = [(path, leaf) for path, leaf in nnx.to_flat_state(params) if isinstance(leaf, nnx.Param)]
        return nested({named(path): value_of(leaf) for path, leaf in flat})
    if not isinstance(params, Mapping):
        return params
    return {str(name): as_tree(value) for name, value in params.items()}


def value_of(variable: nnx.Variable) -> Any:
    """What a variable holds; in an abstract model (`nnx.eval_shape`) a shape."""
    raw = variable.get_raw_value()
    return raw if isinstance(raw, jax.ShapeDtypeStruct) else variable[...]
