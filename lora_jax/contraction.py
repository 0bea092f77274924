"""Index labels of DenseGeneral and Einsum layers, and the side path through them.

A layer is `einsum("<x>,<kernel>-><out>")`. Factor `a` carries the kernel's leading labels and R, `b` carries R and
the rest.
"""

import dataclasses
import math
import string

import jax
import jax.numpy as jnp

from lora_jax import lowrank
from lora_jax.errors import TargetError

RANK = "R"  # never a label of a layer: `_letters` leaves it out


@dataclasses.dataclass(frozen=True)
class Labels:
    """One letter per axis, e.g. x="btd", kernel="dhk", out="bthk" for an attention projection."""

    x: str
    kernel: str
    out: str

    @property
    def contracted(self) -> str:
        """Labels summed over, in the kernel's order."""
        return "".join(c for c in self.kernel if c in self.x and c not in self.out)

    @property
    def features(self) -> str:
        """Output labels that only the kernel has, in the kernel's order."""
        return "".join(c for c in self.kernel if c not in self.x)

    @property
    def batch(self) -> str:
        """Labels of x alone, in its order."""
        return "".join(c for c in self.x if c not in self.kernel)

    @property
    def keeps_all(self) -> bool:
        """No label is summed but the contracted ones: the output is a matrix product, its axes in some order."""
        return sorted(self.out) == sorted(self.batch + self.features)

    @property
    def is_plain(self) -> bool:
        """The kernel is contracted labels, then features: a matrix multiplication."""
        return self.kernel == self.contracted + self.features

    @property
    def is_transposed(self) -> bool:
        """The kernel is features, then contracted labels."""
        return self.kernel == self.features + self.contracted

    @property
    def summed(self) -> tuple[int, ...]:
        """Axes of the kernel that are not in the output."""
        return tuple(i for i, c in enumerate(self.kernel) if c not in self.out)

    def spread(self, value: jax.Array) -> jax.Array:
        """What the kernel's output features have each, as a kernel with 1 on its summed axes, laid along the output's axes."""
        kept = [c for c in self.kernel if c in self.out]
        shown = [c for c in self.out if c in kept]
        value = jnp.squeeze(value, self.summed).transpose([kept.index(c) for c in shown])
        size = dict(zip(shown, value.shape, strict=True))
        return value.reshape([size.get(c, 1) for c in self.out])

    @property
    def split(self) -> int:
        """Number of leading kernel axes that `a` spans."""
        if self.is_plain:
            return len(self.contracted)
        if self.is_transposed:
            return len(self.features)
        last = max(self.kernel.index(c) for c in self.contracted)
        return min(last + 1, len(self.kernel) - 1)


def _letters(used: str = "") -> list[str]:
    return [c for c in string.ascii_letters if c != RANK and c not in used]


def of_einsum(einsum_str: str, x_ndim: int) -> Labels:
    """The labels of an `nn.Einsum`, its ellipsis spelled out.

    >>> of_einsum("...d,dhk->...hk", 3)
    Labels(x='abd', kernel='dhk', out='abhk')
    """
    compact = einsum_str.replace(" ", "")
    operands, arrow, out = compact.partition("->")
    x, comma, kernel = operands.partition(",")
    if not arrow or not comma or "..." in kernel or len(set(kernel)) != len(kernel) or RANK in compact:
        raise TargetError(
            f"LoRA cannot adapt nn.Einsum({einsum_str!r}): it needs 'x,kernel->out' without an ellipsis or a repeated "
            f"label in the kernel and without the label {RANK!r}; exclude the layer or rewrite its equation."
        )
    hidden = "".join(_letters(compact)[: x_ndim - len(x.replace("...", ""))]) if "..." in x else ""
    labels = Labels(x.replace("...", hidden), kernel, out.replace("...", hidden))
    if not labels.contracted:
        raise TargetError(f"LoRA cannot adapt nn.Einsum({einsum_str!r}): it sums over no label; exclude the layer.")
    return labels


def of_dense_general(axis: int | tuple, batch_dims: int | tuple, kernel_ndim: int, x_ndim: int) -> Labels:
    """The labels of an `nn.DenseGeneral`: kernel [batch_dims, contracted axes, features].

    >>> of_dense_general(axis=(-2, -1), batch_dims=(), kernel_ndim=3, x_ndim=4)
    Labels(x='abcd', kernel='cde', out='abe')
    """
    axes = _sorted_axes(axis, x_ndim)
    batch = _sorted_axes(batch_dims, x_ndim)
    letters = _letters()
    x = "".join(letters[:x_ndim])
    taken = "".join(x[a] for a in (*batch, *axes))
    features = "".join(letters[x_ndim : x_ndim + kernel_ndim - len(taken)])
    rest = "".join(c for c in x if c not in taken)
    return Labels(x, taken + features, "".join(x[a] for a in batch) + rest + features)


def of_dot(dimension_numbers: tuple, x_ndim: int, kernel_ndim: int) -> Labels:
    """The labels of a `lax.dot_general(x, kernel, dimension_numbers)`.

    >>> of_dot((((1,), (0,)), ((), ())), 2, 3)
    Labels(x='ab', kernel='bcd', out='acd')
    """
    (x_axes, kernel_axes), (x_batch, kernel_batch) = dimension_numbers
    letters = _letters()
    x = "".join(letters[:x_ndim])
    shared = dict(zip((*kernel_axes, *kernel_batch), (x[axis] for axis in (*x_axes, *x_batch)), strict=True))
    fresh = iter(letters[x_ndim:])
    kernel = "".join(shared[i] if i in shared else next(fresh) for i in range(kernel_ndim))
    batch = "".join(x[axis] for axis in x_batch)
    rest = "".join(c for i, c in enumerate(x) if i not in (*x_axes, *x_batch))
    return Labels(x, kernel, batch + rest + "".join(c for c in kernel if c not in x))


def _sorted_axes(axes: int | tuple, ndim: int) -> list[int]:
    """Flax sorts the axes it is given: axis=(-1, -2) has the kernel of axis=(-2, -1)."""
    return sorted(axis % ndim for axis in ((axes,) if isinstance(axes, int) else axes))


def side_path(
    labels: Labels, kernel_shape: tuple[int, ...], x: jax.Array, a: jax.Array, b: jax.Array, scale: jax.Array
) -> jax.Array:
    """The layer applied to x with kernel `reshape(scale * a @ b)`, which is never formed."""
    is_matmul = labels.keeps_all and len(set(labels.x)) == len(labels.x)
    if is_matmul and labels.is_plain:
        return _matmul_path(labels, kernel_shape, x, a, b, scale)
    if is_matmul and labels.is_transposed:
        return _matmul_path(labels, kernel_shape, x, b.T, a.T, scale)
    split = labels.split
    a = a.reshape(*kernel_shape[:split], -1).astype(x.dtype)
    b = (b * scale.astype(b.dtype)).reshape(-1, *kernel_shape[split:]).astype(x.dtype)
    equation = f"{labels.x},{labels.kernel[:split]}{RANK},{RANK}{labels.kernel[split:]}->{labels.out}"
    return jnp.einsum(equation, x, a, b, optimize="optimal")


def rows(labels: Labels, x: jax.Array) -> jax.Array | None:
    """The rows [B, D] that `a` [D, R] multiplies; None where the layer is no matrix product with its inputs first."""
    if not (labels.keeps_all and labels.is_plain and len(set(labels.x)) == len(labels.x)):
        return None
    order = labels.batch + labels.contracted
    x = x.transpose([labels.x.index(c) for c in order])
    return x.reshape(-1, math.prod(x.shape[len(labels.batch) :]))


def _matmul_path(labels, kernel_shape, x, a, b, scale):
    """Two matrix products over flattened rows; a [D, R], b [R, K] with D and K the products of their labels."""
    size = dict(zip(labels.kernel, kernel_shape, strict=True))
    order = labels.batch + labels.contracted
    x = x.transpose([labels.x.index(c) for c in order])
    lead = x.shape[: len(labels.batch)]
    y = lowrank.side_path(x.reshape(*lead, math.prod(size[c] for c in labels.contracted)), a, b, scale)
    y = y.reshape(*lead, *(size[c] for c in labels.features))
    order = labels.batch + labels.features
    return y.transpose([order.index(c) for c in labels.out])
