"""One layer's adapter in torch's layout and in ours.

torch's Linear holds [out, in], its Conv2d [out, in, *window], ours [in, out] and [*window, in, out]; PEFT's lora_A and lora_B
are layers of the same class. An embedding's factors are parameters of their own, with names of their own.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from lora_jax import axes
from lora_jax.errors import PeftError
from lora_jax.products.site import Site

LORA_A, LORA_B = "lora_A.weight", "lora_B.weight"
EMBEDDING_A, EMBEDDING_B = "lora_embedding_A", "lora_embedding_B"
MAGNITUDE = "lora_magnitude_vector"
BIAS = "lora_B.bias"
SUFFIXES = (LORA_A, LORA_B, EMBEDDING_A, EMBEDDING_B, MAGNITUDE, BIAS)


class Layer(NamedTuple):
    """The adapter of one layer, as numpy arrays; of a parameter that holds E experts, a and b have them in front."""

    a: np.ndarray  # [D, R]
    b: np.ndarray  # [R, K]
    scale: float
    magnitude: np.ndarray | None = None  # the kernel's shape, with 1 on the axes that the layer sums over
    bias: np.ndarray | None = None  # [K], of lora_B: the scale is on it too


def require_torch_layout(path: str, site: Site, *, ties: bool = False) -> None:
    """Raises PeftError for a layer that PEFT has no adapter for, or another one than ours.

    Args:
      ties: whether PEFT is told to give a tied table's adapter to all its uses.
    """
    if not site.is_plain:
        raise PeftError(
            f"{path}: PEFT has no such adapter for a transposed convolution, or one with groups, dilation or "
            "this padding; merge it, or exclude the layer."
        )
    if not site.uses:
        raise PeftError(
            f"{path}: whether this embedding is tied is not known; pass the layout that LoRA.layout_of(x) gives."
        )
    if site.is_tied and not (ties and site.is_lookup):
        raise PeftError(
            f"{path} is tied: its adapter acts at all its uses ({', '.join(sorted({use.operation for use in site.uses}))}), and PEFT's on "
            "one alone, but for an embed_tokens' or lm_head's under ensure_weight_tying; merge it, or exclude the layer."
        )
    if site.is_convolution and site.roles.lstrip("si") != "o":
        raise PeftError(
            f"{path}: PEFT knows convolutions with the output channels last; merge it, or exclude the layer."
        )


def to_torch(site: Site, layer: Layer) -> dict[str, np.ndarray]:
    """Suffix of the key -> tensor, float32."""
    a, b = layer.a, layer.b
    if site.is_lookup:
        found = {EMBEDDING_A: a.T, EMBEDDING_B: b.T}
    elif site.is_convolution:
        ones = (1,) * (len(site.kernel) - 2)
        found = {LORA_A: _conv_to_torch(a.reshape(*site.kernel[:-1], -1)), LORA_B: b.T.reshape(*b.T.shape, *ones)}
    elif site.is_transposed:
        found = {LORA_A: b, LORA_B: a}
    else:
        found = {LORA_A: a.T, LORA_B: b.T}
    if layer.magnitude is not None:
        flat = layer.magnitude.reshape(-1)
        found[MAGNITUDE] = flat.reshape(1, -1, *(1,) * (len(site.kernel) - 2)) if site.is_convolution else flat
    if layer.bias is not None:
        found[BIAS] = layer.bias
    return {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in found.items()}


def from_torch(site: Site, tensors: Mapping[str, np.ndarray], scale: float) -> Layer:
    """The inverse of `to_torch`, of tensors whose shapes `shapes` gave."""
    found = {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
    if site.is_lookup:
        a, b = found[EMBEDDING_A].T, found[EMBEDDING_B].T
    elif site.is_convolution:
        rank = len(found[LORA_A])
        a, b = _conv_from_torch(found[LORA_A]).reshape(-1, rank), found[LORA_B].reshape(-1, rank).T
    elif site.is_transposed:
        a, b = found[LORA_B], found[LORA_A]
    else:
        a, b = found[LORA_A].T, found[LORA_B].T
    magnitude = found.get(MAGNITUDE)
    return Layer(a, b, scale, None if magnitude is None else magnitude.reshape(norm_shape(site)), found.get(BIAS))


def norm_shape(site: Site) -> tuple[int, ...]:
    """The kernel's shape with 1 on the axes that the layer sums over."""
    return tuple(1 if i in site.inputs else size for i, size in enumerate(site.kernel))


def shapes(site: Site, rank: int, *, dora: bool, bias: bool = False) -> dict[str, tuple[int, ...]]:
    """The shapes that PEFT's tensors of this layer have."""
    one, two = (
        _like(site, r, dora=dora, bias=bias) for r in (1, 2)
    )  # the rank is what differs; a file may ask for any
    return {
        name: tuple(
            size if size == other else rank for size, other in zip(one[name].shape, two[name].shape, strict=True)
        )
        for name in one
    }


def _like(site: Site, rank: int, *, dora: bool, bias: bool) -> dict[str, np.ndarray]:
    _, d, k = axes.matrices(site.shape, site.roles)
    outputs = np.zeros(k) if bias and not site.is_lookup else None
    if site.is_transposed:
        d, k = k, d
    magnitude = np.zeros(norm_shape(site)) if dora else None
    return to_torch(site, Layer(np.zeros((d, rank)), np.zeros((rank, k)), 1.0, magnitude, outputs))


def rank_of(tensors: Mapping[str, np.ndarray]) -> int | None:
    """R by the shape of the first factor; None where it is not there."""
    first = tensors.get(LORA_A, tensors.get(EMBEDDING_A))
    return None if first is None or not first.shape else first.shape[0]


def _conv_to_torch(kernel: np.ndarray) -> np.ndarray:
    """[*window, in, out] as [out, in, *window]."""
    return np.moveaxis(kernel, (-1, -2), (0, 1))


def _conv_from_torch(tensor: np.ndarray) -> np.ndarray:
    return np.moveaxis(tensor, (0, 1), (-1, -2))


def parameter_name(site: Site | None, leaf: str) -> str | None:
    """torch's name of a parameter that is saved whole, in a head say; None for a kernel of a class that is not known."""
    if leaf == "kernel" and (site is None or site.kind == "ConvTranspose"):
        return None
    return "weight" if leaf in ("kernel", "embedding", "scale") else leaf


def parameter_shape(site: Site | None, leaf: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that it has in torch."""
    if leaf != "kernel" or site is None:
        return tuple(shape)
    if site.is_convolution:
        return (shape[-1], shape[-2], *shape[:-2])
    _, d, k = axes.matrices(site.shape, site.roles)
    return k, d


def parameter_to_torch(site: Site | None, leaf: str, value: Any) -> np.ndarray:
    """The parameter as torch has it, float32."""
    array = np.asarray(nn.meta.unbox(value), np.float32)
    if leaf == "kernel" and site is not None:
        array = _conv_to_torch(array) if site.is_convolution else _matrix(array, site)
    return np.ascontiguousarray(array)


def parameter_from_torch(site: Site | None, leaf: str, shape: tuple[int, ...], tensor: np.ndarray) -> np.ndarray:
    """The inverse of `parameter_to_torch`, for a leaf of this shape."""
    tensor = np.asarray(tensor, np.float32)
    if leaf == "kernel" and site is not None:
        if site.is_convolution:
            return _conv_from_torch(tensor)
        order = _outputs_first(site)
        tensor = tensor.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))
    return tensor.reshape(shape)


def _outputs_first(site: Site) -> list[int]:
    """The axes of the kernel, those of its outputs first, as torch has them."""
    roles = site.roles.replace("s", "")
    return sorted(range(len(roles)), key=lambda axis: roles[axis] == "i")


def _matrix(kernel: np.ndarray, site: Site) -> np.ndarray:
    """[K, D]."""
    order = _outputs_first(site)
    outputs = math.prod(kernel.shape[axis] for axis in order if site.roles.replace("s", "")[axis] == "o")
    return kernel.transpose(order).reshape(outputs, -1)
