"""One rule per Flax layer class: where its kernel splits into a [D, R] and b [R, K], and how the side path runs.

The update of a kernel of any shape is `reshape(scale * a @ b, kernel.shape)`: `a` spans the kernel's leading axes
and `b` its trailing ones. So merging needs shapes alone, and only the side path knows the layer.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from lora_jax import contraction, convolution, lowrank
from lora_jax.errors import TargetError

Call = Callable[..., jax.Array]  # a layer's own method, of its input


@dataclasses.dataclass(frozen=True)
class Split:
    """How a kernel falls apart.

    `at`: number of leading axes that `a` spans. `inputs`: axes that the layer sums over. `random`: the factor on the input side.
    """

    at: int
    inputs: tuple[int, ...]
    random: Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True)
class Rule:
    """What LoRA needs to know about one layer class."""

    kind: str
    kernel: str  # name of the adapted parameter
    is_linear: bool  # counted by "all-linear"
    split: Callable[..., Split]  # (module, kernel, inputs) -> Split
    sides: dict[str, Callable[..., jax.Array]]  # method name -> (module, kernel, x, a, b, scale, *args) -> y
    spread: Callable[..., jax.Array]  # (module, kernel, x, value, *args) -> value, one per output feature, laid along y
    rows: Callable[
        ..., jax.Array | None
    ]  # (module, kernel, x, *args) -> the rows [B, D] that `a` multiplies; None: no such
    scales_input: tuple[str, ...] = ()  # methods whose input has the kernel's output features


def _along_last(module, kernel, x, value, *rest):
    return value.reshape(-1)


def _no_rows(module, kernel, x, *rest):
    return None


def _dense_side(module, kernel, x, a, b, scale):
    return lowrank.side_path(x, a, b, scale)


def _dense_rows(module, kernel, x):
    return x.reshape(-1, x.shape[-1])


def _general_labels(module: nn.DenseGeneral, kernel, x) -> contraction.Labels:
    return contraction.of_dense_general(module.axis, module.batch_dims, kernel.ndim, x.ndim)


def _einsum_labels(module: nn.Einsum, kernel, x, einsum_str=None) -> contraction.Labels:
    return contraction.of_einsum(module.einsum_str or einsum_str, x.ndim)


def _labelled(kind: str, labels_of: Callable[..., contraction.Labels]) -> Rule:
    """The rule of a layer that is one einsum: `labels_of(module, kernel, x, *args)`."""

    def split(module, kernel, x, *rest):
        labels = labels_of(module, kernel, x, *rest)
        return Split(labels.split, labels.summed, "b" if labels.is_transposed else "a")

    def side(module, kernel, x, a, b, scale, *rest):
        return contraction.side_path(labels_of(module, kernel, x, *rest), kernel.shape, x, a, b, scale)

    def spread(module, kernel, x, value, *rest):
        return labels_of(module, kernel, x, *rest).spread(value)

    def rows(module, kernel, x, *rest):
        return contraction.rows(labels_of(module, kernel, x, *rest), x)

    return Rule(kind, "kernel", True, split, {"__call__": side}, spread, rows)


def _conv_split(module: nn.Conv, kernel, x) -> Split:
    if module.mask is not None:
        raise TargetError(
            f"LoRA cannot adapt {'/'.join(module.path) or 'the root'}, an nn.Conv with a mask: the mask would apply to merged "
            "weights and not to the side path; exclude the layer."
        )
    return Split(kernel.ndim - 1, tuple(range(kernel.ndim - 1)))


def _conv_side(module: nn.Conv, kernel, x, a, b, scale):
    def run(narrow_kernel):
        conv = module.clone(features=narrow_kernel.shape[-1], use_bias=False, mask=None, name=None, parent=None)
        return conv.apply({"params": {"kernel": narrow_kernel}}, x, method=nn.Conv.__call__)

    return convolution.side_path(run, kernel.shape, module.feature_group_count, a, b, scale, x.dtype)


def _embed_side(module, kernel, ids, a, b, scale):
    narrow = jnp.take(a, ids, axis=0).astype(module.dtype or b.dtype)  # [B, T, R]
    return lowrank.scaled_matmul(narrow, b, scale)


def _attend_side(module, kernel, x, a, b, scale):
    """Logits of a tied output layer: x @ (scale * a @ b).T."""
    return lowrank.side_path(x, b.T, a.T, scale)


def _matrix_split(module, kernel, x) -> Split:
    return Split(1, (0,))


def _embed_split(module, kernel, ids) -> Split:
    return Split(1, (0,), "b")


_EMBED_SIDES = {"__call__": _embed_side, "attend": _attend_side}
RULES: dict[type[nn.Module], Rule] = {
    nn.Dense: Rule("Dense", "kernel", True, _matrix_split, {"__call__": _dense_side}, _along_last, _dense_rows),
    nn.DenseGeneral: _labelled("DenseGeneral", _general_labels),
    nn.Einsum: _labelled("Einsum", _einsum_labels),
    nn.Conv: Rule("Conv", "kernel", False, _conv_split, {"__call__": _conv_side}, _along_last, _no_rows),
    nn.Embed: Rule("Embed", "embedding", False, _embed_split, _EMBED_SIDES, _along_last, _no_rows, ("attend",)),
}


def rule_for(module: nn.Module, method: Callable) -> Rule | None:
    """The rule of the known layer class whose own method this is; None where LoRA has nothing to add.

    A subclass's override is not the layer: what it does around `super().__call__` is its own affair.
    """
    for kind, rule in RULES.items():
        if isinstance(module, kind) and any(method is inspect.unwrap(getattr(kind, name)) for name in rule.sides):
            return rule
    return None


def bound(next_fun: Callable, method: Callable, args: tuple, kwargs: Mapping[str, Any]) -> tuple[Call, Any, list]:
    """The layer as a function of its input alone, that input, and the other arguments; however they were passed."""
    bound = inspect.signature(method).bind(*args, **kwargs)
    name, *others = bound.arguments

    def base(inputs):
        bound.arguments[name] = inputs
        return next_fun(*bound.args, **bound.kwargs)

    return base, bound.arguments[name], [bound.arguments[other] for other in others]
