"""Between a Flax tree and a torch state dict of the same modules: names and the direction of matrices.

A tensor's name is the parameter's path with "." for "/"; only the last part has another word ("kernel", "scale" and
"embedding" are torch's "weight"), and a Dense kernel is transposed (torch's Linear is [out, in]).
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax.errors import ModelError

WORDS = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
MOST_LAYERS = (
    1000  # a config that says more than the weights have is not followed; up to here each missing tensor is named
)
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Names:
    """Which modules hold something else than a kernel: patterns that a module's own name matches as a whole."""

    embeddings: str
    norms: str

    def path(self, name: str) -> str:
        """The parameter path of a tensor.

        >>> Names("embed", "norm").path("layer.0.norm.weight")
        'layer/0/norm/scale'
        """
        *modules, word = name.split(".")
        if word == "weight" and modules:
            if re.fullmatch(self.norms, modules[-1]):
                word = "scale"
            elif re.fullmatch(self.embeddings, modules[-1]):
                word = "embedding"
            else:
                word = "kernel"
        return "/".join([*modules, word])


def name(path: str) -> str:
    """The tensor of a parameter path: the inverse of `Names.path`.

    >>> name("layer/0/norm/scale")
    'layer.0.norm.weight'
    """
    *modules, word = path.split("/")
    return ".".join([*modules, WORDS.get(word, word)])


def turned(path: str, shape: Shape) -> Shape:
    """The shape there of what has `shape` here, and the reverse."""
    return tuple(reversed(shape)) if path.endswith("/kernel") else tuple(shape)


def as_ours(path: str, tensor: np.ndarray, dtype: Any = None) -> jax.Array:
    """As Flax has it, in `dtype`, or as it is."""
    return jnp.asarray(tensor.T if path.endswith("/kernel") else tensor, dtype)


def stacked_as_ours(path: str, tensors: Sequence[np.ndarray], dtype: Any = None) -> jax.Array:
    """The same of the layers of a stack, along axis 0; one copy is made."""
    turn = path.endswith("/kernel")
    shape = tensors[0].shape[::-1] if turn else tensors[0].shape
    whole = np.empty((len(tensors), *shape), dtype or jnp.result_type(*(tensor.dtype for tensor in tensors)))
    for layer, tensor in zip(whole, tensors, strict=True):
        layer[...] = tensor.T if turn else tensor
    return jnp.asarray(whole)


def as_theirs(path: str, leaf: Any, dtype: Any) -> np.ndarray:
    """In `dtype`, as torch has it."""
    with np.errstate(over="ignore"):  # `odd_values` tells of it
        array = np.asarray(leaf).astype(jnp.dtype(dtype))
    return array.T if path.endswith("/kernel") else array


def written(leaves: Mapping[str, Any], names: Mapping[str, str], dtype: Any) -> tuple[dict[str, np.ndarray], str]:
    """(tensors by torch's names, the name of their dtype).

    Args:
      leaves: path -> value.
      names: path -> the tensor's name.
      dtype: None is the widest of the leaves'.

    Raises:
      ModelError: for values that are not of floating point, or not finite in this dtype.
    """
    dtype = jnp.dtype(jnp.result_type(*(leaf.dtype for leaf in leaves.values())) if dtype is None else dtype)
    tensors = {names[path]: as_theirs(path, leaf, dtype) for path, leaf in leaves.items()}
    raise_for(f"the parameters cannot be written as {dtype}", odd_values(tensors))
    return tensors, str(dtype)


def problems(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> list[str]:
    """One phrase for each tensor that is missing, unexpected or of another shape, in torch's words.

    Args:
      expected, found: path -> shape, as Flax has it.
    """
    missing = [f"missing {name(path)}" for path in expected if path not in found]
    unexpected = [f"unexpected {name(path)}" for path in found if path not in expected]
    return [
        *missing,
        *unexpected,
        *(
            f"{name(path)} is {list(turned(path, shape))}, expected {list(turned(path, expected[path]))}"
            for path, shape in found.items()
            if path in expected and shape != expected[path]
        ),
    ]


def odd_values(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """One phrase for each tensor, by its name, that is not of floating point, or has NaN or infinity in it."""
    whole = {name: t for name, t in tensors.items() if not jnp.issubdtype(t.dtype, jnp.floating)}
    return [
        *(f"{name} is {tensor.dtype}, expected floating point" for name, tensor in whole.items()),
        *(f"{name} is not finite" for name, t in tensors.items() if name not in whole and not np.isfinite(t).all()),
    ]


def require_layers(file: Any, layers: int, names: Iterable[str], pattern: str) -> None:
    """Raises ModelError where a config says many more layers than the tensors have, before anything of that size is built.

    Args:
      pattern: a regular expression at the beginning of a tensor's name whose one group is the number of its layer.
    """
    found = {int(match[1]) for name in names if (match := re.match(pattern, name))}
    if layers > max(MOST_LAYERS, len(found)):
        raise ModelError(f"{file}: num_hidden_layers is {layers}, and the weights have {len(found)} layers.")


def raise_for(what: str, found: list[str]) -> None:
    """ModelError that names the first five problems, if there are any."""
    if found:
        more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
        raise ModelError(f"{what}: {'; '.join(sorted(found)[:5])}{more}.")
