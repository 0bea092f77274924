"""Parameter trees as callers give them, checked in one place: what is a tree, of arrays, with adapters that are whole.

Every public function that takes parameters takes them through `tree_of`, or `adapted` where it reads the adapters' values.
"""

import contextlib
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import nnx
from flax.errors import ScopeCollectionNotFound

from lora_jax.errors import ModelError, TreeError
from lora_jax.leaves import (
    MAGNITUDE,
    NAMES,
    NORM,
    SCALE,
    START_A,
    START_B,
    A,
    B,
    is_adapter_leaf,
    kernel_paths,
    modules,
    require_whole,
)
from lora_jax.tree import Params, flat, opened

COLLECTIONS = ("params", "batch_stats", "cache", "intermediates", "losses", "perturbations", "aux_loss", "params_axes")
_ODD_KINDS = {"O": "objects", "U": "strings", "S": "bytes", "M": "dates", "m": "durations"}


def tree_of(params: Params, where: str) -> dict[str, Any]:
    """The leaves by path (`tree.flat`) of nested dicts of arrays, shapes, numbers, or boxes of Flax.

    Args:
      where: the function and its argument, for the message.

    Raises:
      TreeError: for what is no such tree, Flax's variables among it, and for a leaf that is no array.

    >>> tree_of({"head": {"kernel": np.ones((2, 2))}}, "merge: params").keys()
    dict_keys(['head/kernel'])
    """
    require_mapping(params, where)
    require_params(params, where)
    leaves = flat(params)
    for path, leaf in leaves.items():
        why = _why_no_array(leaf)
        if why:
            raise TreeError(f"{where} has {why} at {path}, where an array was expected.")
    return leaves


def whole(params: Params, where: str) -> dict[str, Any]:
    """`tree_of`, and every adapter in it is whole and of floating-point arrays, whatever their shapes.

    Raises:
      TreeError: as `tree_of`, and for an adapter of which a part is missing or is no array of floats.

    >>> one = np.ones(())
    >>> whole({"lora_a": one, "lora_b": one, "lora_scale": one}, "trainable_mask: params").keys()
    dict_keys(['lora_a', 'lora_b', 'lora_scale'])
    """
    require_whole(tree_of(params, where))
    return parts(params, where)


def parts(params: Params, where: str) -> dict[str, Any]:
    """`tree_of`, and every part of an adapter is of floating-point arrays; those that are whole are of one rank, one stack and one kernel.

    Raises:
      TreeError: as `adapted`, but for a part that is missing: a tree may be the trainable or the frozen part alone.

    >>> parts({"lora_scale": np.ones(())}, "scaled: params").keys()
    dict_keys(['lora_scale'])
    """
    leaves = tree_of(params, where)
    for path, leaf in leaves.items():
        if is_adapter_leaf(path) and not is_floating(leaf):
            what = f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else repr(leaf)
            raise TreeError(f"{where} has {what} at {path}; the leaves of an adapter are floating-point arrays.")
    return leaves


def adapted(params: Params, where: str) -> dict[str, Any]:
    """`whole`, and the parts of every adapter are of one rank and one stack.

    Raises:
      TreeError: as `whole`, and for parts of different adapters, or an adapter of a kernel that is not of floats.

    >>> adapted({"lora_a": np.ones((2, 1)), "lora_b": np.ones((1, 2)), "lora_scale": np.ones(())}, "merge: params").keys()
    dict_keys(['lora_a', 'lora_b', 'lora_scale'])
    """
    leaves = whole(params, where)
    for module in modules(leaves):
        if all(module + name in leaves for name in (A, B, SCALE)):
            _require_fitting(where, module, leaves)
    return leaves


def require_values(leaves: Mapping[str, Any], where: str) -> None:
    """Raises TreeError for a leaf of which there is only the shape, as jax.eval_shape gives it, or that was donated.

    >>> require_values({"kernel": np.ones(2)}, "merge: params")
    """
    path = next((path for path, leaf in leaves.items() if isinstance(opened(leaf), jax.ShapeDtypeStruct)), None)
    if path is not None:
        raise TreeError(
            f"{where} has a shape without values at {path}; where shapes are asked for, call the function in jax.eval_shape."
        )
    gone = next((path for path, leaf in leaves.items() if _is_gone(opened(leaf))), None)
    if gone is not None:
        raise TreeError(
            f"{where} has an array at {gone} that is gone: a step that donates its state took it; combine(frozen, state.trainable) of the "
            "newest state has its values."
        )


def _is_gone(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer) and leaf.is_deleted()


def _require_fitting(where: str, module: str, leaves: Mapping[str, Any]) -> None:
    """Raises TreeError where the parts of an adapter are not of one rank, one stack and one kernel, or the kernel is not of floats."""
    shapes = {name: tuple(np.shape(opened(leaves[module + name]))) for name in NAMES if module + name in leaves}
    pairs = [(A, B)] + [(START_A, START_B)] * (START_A in shapes)
    fits = all(_is_pair(shapes[a], shapes[b], shapes[SCALE]) for a, b in pairs)
    if (
        not fits
        or (START_A in shapes and shapes[START_A][:-1] != shapes[A][:-1])
        or shapes.get(NORM) != shapes.get(MAGNITUDE)
    ):
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise TreeError(f"{where} has parts of different adapters at {module.rstrip('/') or 'the root'}: {found}.")
    kernel = next((path for path in kernel_paths(module) if path in leaves), None)
    if kernel is not None and not is_floating(leaves[kernel]):
        raise TreeError(
            f"{where} has an adapter at {module + A}, and its kernel is no array of floating-point numbers."
        )


def _is_pair(a: tuple[int, ...], b: tuple[int, ...], stack: tuple[int, ...]) -> bool:
    """Whether a is [*stack, D, R] and b [*stack, R, K]."""
    return len(a) == len(b) == len(stack) + 2 and a[:-2] == b[:-2] == stack and a[-1] == b[-2]


def is_floating(leaf: Any) -> bool:
    """Whether a leaf is an array of floating-point numbers, or the shape of one.

    >>> is_floating(np.ones(2)), is_floating(np.ones(2, int)), is_floating(1.0)
    (True, False, False)
    """
    leaf = opened(leaf)
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, np.floating)


def is_known(leaf: Any) -> bool:
    """Whether a leaf is an array whose values can be looked at here: not traced, not only a shape, not spread over processes.

    >>> is_known(np.ones(2)), is_known(jax.ShapeDtypeStruct((2,), np.float32))
    (True, False)
    """
    if isinstance(leaf, jax.Array):
        return not isinstance(leaf, jax.core.Tracer) and leaf.is_fully_addressable
    return isinstance(leaf, (np.ndarray, np.generic))


def is_finite(leaf: Any) -> bool:
    """Whether an array has no infinity and no NaN, as far as that can be known here.

    >>> is_finite(np.ones(2)), is_finite(np.array([np.nan])), is_finite(jax.ShapeDtypeStruct((2,), np.float32))
    (True, False, True)
    """
    if not is_known(leaf) or not jax.dtypes.issubdtype(leaf.dtype, np.inexact):
        return True
    with jax.ensure_compile_time_eval():  # also of an array that a traced function closes over
        return bool(jax.numpy.isfinite(leaf).all())


def require_mapping(params: Any, where: str) -> None:
    """Raises TreeError for what is no dict at all: another argument, a model, a list."""
    if isinstance(params, nnx.State):
        raise TreeError(
            f"{where} is an nnx.State; pass nested dicts of arrays, the base_params of lora_jax.nnx.LoRA(model, config) or what its init gives."
        )
    if not isinstance(params, Mapping):
        raise TreeError(f"{where} is {described(params)}; expected a parameter tree, nested dicts of arrays.")


def require_params(params: Mapping[str, Any], where: str) -> None:
    """Raises TreeError for Flax's variables, {"params": ..., "batch_stats": ...}.

    >>> require_params({"head": {"kernel": 1}}, "merge: params")
    """
    if isinstance(params.get("params"), Mapping) and all(name in COLLECTIONS for name in params):
        raise TreeError(
            f"{where} has the collections {', '.join(params)}: it is Flax's variables, and the parameters alone were expected; pass "
            'variables["params"].'
        )


def params_in(variables: Any, where: str) -> Params:
    """`variables["params"]` of what `apply` is given; {} where there are none.

    Raises:
      TreeError: for parameters without their {"params": ...}, and for what is no dict.

    >>> params_in({"params": {"kernel": 1}}, "apply")
    {'kernel': 1}
    """
    if not isinstance(variables, Mapping):
        raise TreeError(
            f'{where} is given {described(variables)}; it takes variables, {{"params": params}}, and then the inputs.'
        )
    if "params" not in variables and any(name not in COLLECTIONS for name in variables):
        raise TreeError(
            f'{where} is given a dict with {", ".join(map(str, list(variables)[:3]))} and without "params"; it takes variables: write '
            '{"params": params}.'
        )
    return variables.get("params", {})


def require_key(key: Any, where: str) -> None:
    """Raises TreeError where something else is given than a PRNG key, or a dict of them by the names of their streams.

    >>> require_key({"params": jax.random.key(0)}, "init")
    """
    keys = list(key.values()) if isinstance(key, Mapping) else [key]
    if not keys or not all(map(is_key, keys)):
        raise TreeError(f"{where}: the key is {described(key)}; a PRNG key comes first, for example jax.random.key(0).")


def require_inputs(call: Any, model: Any, args: tuple, kwargs: Mapping[str, Any], where: str) -> None:
    """Raises ModelError where an example input does not fit the signature of what is called.

    Args:
      call: the method, as a function of the model and its inputs.

    >>> require_inputs(nn.Dense.__call__, nn.Dense(3), (np.ones((1, 2)),), {}, "init")
    """
    why = unfit(call, (model, *args), kwargs)
    if why:
        raise ModelError(
            f"{where}: the example input does not fit {type(model).__name__}: {why}; give what the model is called with, after the others."
        )


def unfit(call: Any, args: tuple, kwargs: Mapping[str, Any]) -> str:
    """Why a call's signature does not take these arguments; "" where it does, or has none to look at.

    >>> unfit(nn.Dense.__call__, (nn.Dense(3),), {})
    "missing a required argument: 'inputs'"
    """
    try:
        inspect.signature(call).bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    except ValueError:  # it has no signature to look at
        return ""
    return ""


@contextlib.contextmanager
def collections_given(where: str) -> Iterator[None]:
    """Raises TreeError where a linen model, run within, reads a collection that it was not given.

    >>> with collections_given("verify"):
    ...     nn.Dense(1).apply({"params": nn.Dense(1).init(jax.random.key(0), np.ones((1, 2)))["params"]}, np.ones((1, 2))).shape
    (1, 1)
    """
    try:
        yield
    except ScopeCollectionNotFound as error:
        found = re.search(r'collection "([^"]+)"', str(error))
        if found is None or found[1] == "params":
            raise
        name = found[1]
        raise TreeError(
            f'{where}: the model reads the collection {name}, which is not among the collections; pass collections={{"{name}": '
            f'variables["{name}"]}}.'
        ) from None


def described(value: Any) -> str:
    """What a value is, in a message.

    >>> described(nn.Dense(3)), described([1, 2]), described(jax.random.key(0))
    ('a Dense of flax.linen', 'a list', 'a PRNG key')
    """
    if is_key(value):
        return "a PRNG key"
    if isinstance(value, nn.Module):
        return f"a {type(value).__name__} of flax.linen"
    if isinstance(value, nnx.Module):
        return f"a {type(value).__name__} of flax.nnx"
    if isinstance(value, (jax.Array, np.ndarray)):
        return f"an array {value.dtype}{list(value.shape)}"
    name = "None" if value is None else type(value).__name__
    return name if value is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def is_key(value: Any) -> bool:
    """Whether a value is a PRNG key, typed or raw.

    >>> is_key(jax.random.key(0)), is_key(np.zeros(2, np.uint32)), is_key(1)
    (True, True, False)
    """
    if not (hasattr(value, "dtype") and hasattr(value, "shape")):
        return False
    is_raw = value.dtype == np.uint32 and tuple(value.shape) in ((2,), (4,))
    return is_raw or jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)


def _why_no_array(leaf: Any) -> str:
    """What a leaf is that is no array; "" for an array, its shape, a number, or a box of one."""
    if isinstance(leaf, nnx.Variable):
        return f"a {type(leaf).__name__} of flax.nnx"
    leaf = opened(leaf)
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        kind = getattr(leaf.dtype, "kind", "")
        return f"an array of {_ODD_KINDS[kind]}" if kind in _ODD_KINDS else ""
    return "" if isinstance(leaf, (bool, int, float, complex)) else described(leaf)
