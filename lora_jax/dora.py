"""DoRA: a kernel as magnitude times direction (Liu et al. 2024, arXiv:2402.09353, section 4), without a weight-shaped array.

The adapted kernel is `m * V / ||V||` with `V = W + scale * a @ b`; the norm is taken over the axes that the layer sums
over, and counts as a constant in gradients (section 4.3). Here

    ||V||^2 = ||W||^2 + 2 scale <W, a b> + scale^2 ||a b||^2,

and with W^T a [K, R] and a^T a [R, R] neither inner product needs `a @ b`. `||W||` is cached in the adapter.
"""

import math
import string

import jax
import jax.numpy as jnp

from lora_jax import lowrank
from lora_jax.leaves import Adapter, at_place

RANK, OTHER = "R", "Q"  # letters of the rank's axis; the kernel's are lower case


def norm_of(kernel: jax.Array, inputs: tuple[int, ...]) -> jax.Array:
    """||W|| over the axes `inputs`, which stay as 1; float32.

    >>> norm_of(jnp.array([[3.0, 0.0], [4.0, 2.0]]), (0,)).tolist()
    [[5.0, 2.0]]
    """
    square = jnp.sum(jnp.square(kernel.astype(jnp.float32)), axis=inputs, keepdims=True)
    return jnp.sqrt(square)


def norm_like(norm: jax.Array, kernel: jax.Array) -> jax.Array:
    """||W|| of one layer's kernel, over the axes over which `norm` was taken: those where its size is 1.

    >>> norm_like(jnp.ones((1, 2)), jnp.array([[3.0, 0.0], [4.0, 2.0]])).tolist()
    [[5.0, 2.0]]
    """
    return norm_of(kernel, tuple(axis for axis, size in enumerate(norm.shape) if size == 1))


def gain(kernel: jax.Array, adapter: Adapter) -> jax.Array:
    """`m / ||V||` of one layer whose axes are in order, in the shape of m; 1 where the adapter is as it began, and where V is zero.

    The gradient reaches m alone.
    """
    a, b, scale, base_norm = jax.lax.stop_gradient((*adapter.factors(), adapter.scale, adapter.norm))
    least = jnp.finfo(jnp.float32).eps * jnp.square(base_norm)  # what rounding leaves where W and the update cancel
    square = jnp.square(base_norm) + _growth(kernel, a, b, scale, base_norm.shape)
    norm = jnp.sqrt(jnp.maximum(square, least))
    return jnp.where(norm > 0, adapter.magnitude / jnp.where(norm > 0, norm, 1), 1)


def merged(kernel: jax.Array, value: jax.Array, adapter: Adapter, module: str = "") -> jax.Array:
    """`m * V / ||V||` for V = `value`, also of stacked layers; by the cached norms, so that it is what the layer computes.

    Args:
      module: the adapter's place (`leaves.at_place`).
    """
    return at_place(module, gain)(kernel, adapter) * value


def _growth(kernel, a, b, scale, norm_shape: tuple[int, ...]) -> jax.Array:
    """||V||^2 - ||W||^2 in the shape of the norm."""
    letters = string.ascii_lowercase[: kernel.ndim]
    at = split_axis(kernel.shape, a.shape[0])
    lead, trail = letters[:at], letters[at:]
    kept = "".join(c for c, size in zip(letters, norm_shape, strict=True) if size > 1)
    a = a.reshape(*kernel.shape[:at], -1)
    b = b.reshape(-1, *kernel.shape[at:])
    if set(lead) <= set(kept):  # the layer sums over axes of b alone: the same with the factors' parts exchanged
        a, b, lead, trail = jnp.moveaxis(b, 0, -1), jnp.moveaxis(a, -1, 0), trail, lead
    rest = "".join(c for c in lead if c in kept)
    turned = _einsum(f"{letters},{lead}{RANK}->{rest}{trail}{RANK}", kernel, a)
    cross = _einsum(f"{rest}{trail}{RANK},{RANK}{trail}->{kept}", turned, b)
    gram = _einsum(f"{lead}{RANK},{lead}{OTHER}->{rest}{RANK}{OTHER}", a, a)
    half = _einsum(f"{rest}{RANK}{OTHER},{OTHER}{trail}->{rest}{RANK}{trail}", gram, b)
    square = _einsum(f"{rest}{RANK}{trail},{RANK}{trail}->{kept}", half, b)
    return (2 * scale * cross + jnp.square(scale) * square).reshape(norm_shape)


def _einsum(equation: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """In the dtype of the left operand, a bfloat16 kernel say (float32 for float16's narrow range), accumulated in float32."""
    left = left.astype(lowrank.wide(left.dtype))
    return jnp.einsum(equation, left, right.astype(left.dtype), preferred_element_type=jnp.float32)


def split_axis(kernel_shape: tuple[int, ...], d: int) -> int:
    """How many leading axes of the kernel `a` [D, R] spans.

    >>> split_axis((3, 2, 4), 6)
    2
    """
    return next(at for at in range(1, len(kernel_shape) + 1) if math.prod(kernel_shape[:at]) == d)
