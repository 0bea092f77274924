"""QLoRA: a frozen base in 8 or 4 bits a parameter, dequantised where a layer reads it (Dettmers et al. 2023, arXiv:2305.14314).

A quantised kernel takes the kernel's place in the tree, as a box that Flax opens when the layer asks for its parameter; so adapters,
masks, merging and sweeps go on as they are. Blocks of 64 values share one absolute maximum; under double quantisation (section 3) these
maxima are kept in 8 bits themselves, 256 of them sharing a scale: 4.13 bits a parameter in all, instead of 4.5.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lora_jax.config import LoRAConfig
from lora_jax.errors import ConfigError, TargetError, TreeError
from lora_jax.intake import adapted, is_finite, is_floating
from lora_jax.leaves import MAGNITUDE, OPENED, name_of
from lora_jax.products.site import Site, require_sites
from lora_jax.products.targeting import chosen
from lora_jax.tree import Params, nested

METHODS = ("int8", "nf4")
BLOCK, GROUP = 64, 256  # values that share a maximum, maxima that share a scale; both the paper's
# 4-bit NormalFloat, appendix E: quantiles of a normal distribution, scaled into [-1, 1], with 0 among them.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
TINY = 1e-12  # instead of the maximum of a block of zeros


class Maxima(flax.struct.PyTreeNode):
    """The maxima of blocks [*L, N] in 8 bits: `mean + scale * codes`, by groups."""

    codes: Any  # int8 [*L, groups, GROUP]
    scale: Any  # float32 [*L, groups]
    mean: Any  # float32 [*L]


class Quantised(flax.struct.PyTreeNode, nn.meta.AxisMetadata):
    """A kernel in blocks; `unbox()` gives it back, rounded. Made by `quantise`.

    `shape` and `dtype` are those of the kernel. L are the axes of a stack, which nn.scan and vmap may take off or put on.
    """

    codes: Any  # int8 [*L, blocks, BLOCK], or uint8 [*L, blocks, BLOCK / 2], two values in each
    maxima: Any  # Maxima, or float32 [*L, blocks]
    kernel_shape: tuple[int, ...] = flax.struct.field(pytree_node=False)
    dtype: Any = flax.struct.field(pytree_node=False)
    method: str = flax.struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.codes.shape[:-2], *self.kernel_shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))

    def unbox(self) -> jax.Array:
        """The kernel [*L, *kernel_shape], rounded to the format."""
        stack = self.codes.shape[:-2]
        maxima = _opened(self.maxima, self.codes.shape[-2]) if isinstance(self.maxima, Maxima) else self.maxima
        values = _decoded(self.codes, self.method) * maxima[..., None]
        values = values.reshape(*stack, -1)[..., : math.prod(self.kernel_shape)]
        return checkpoint_name(values.reshape(self.shape).astype(self.dtype), OPENED)

    def replace_boxed(self, val: Any) -> Any:
        """A changed value is no longer rounded to the format, so it leaves the box."""
        return val

    def add_axis(self, index: int, params: Any) -> "Quantised":
        return self

    def remove_axis(self, index: int, params: Any) -> "Quantised":
        return self


def quantise(
    base_params: Params,
    layout: Mapping[str, Site],
    *,
    method: str = "nf4",
    double: bool = True,
    targets: Sequence[str] | str = "all-linear",
    excludes: Sequence[str] | str = (),
) -> dict:
    """The base with its kernels quantised; norms, biases, embeddings and what `excludes` names (heads that train, say) stay as they are.

    Args:
      base_params: not changed.
      layout: from `lora_jax.layout`.
      method: "nf4", 4 bits, or "int8".
      double: whether the maxima of blocks are quantised too.
      targets, excludes: patterns, as in LoRAConfig.

    Raises:
      ConfigError: for another method. TargetError: for a pattern that selects nothing. TreeError: for a kernel that is quantised already, or
        (outside of jit, where values are known) has an entry that is infinite or NaN.

    >>> kernel = jnp.linspace(-1, 1, 4096).reshape(64, 64)
    >>> layout = {"": Site("kernel", (64, 64), "float32", "io")}
    >>> small = quantise({"kernel": kernel}, layout)["kernel"]
    >>> small.nbytes, kernel.nbytes, bool(jnp.abs(small.unbox() - kernel).max() < 0.16)
    (2312, 16384, True)
    """
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}; it must be one of {', '.join(map(repr, METHODS))}.")
    require_sites(layout, "quantise")
    leaves = adapted(base_params, "quantise: base_params")
    rescaled = next((path for path in leaves if name_of(path) == MAGNITUDE), None)
    if rescaled is not None:
        raise TreeError(
            f"quantise: base_params holds {rescaled} (DoRA), whose norms would be those of the kernel before; quantise lora_jax.strip(params), "
            "and put the adapter on it by lora_jax.rebase."
        )
    picked = _chosen(layout, targets, excludes)
    for leaf, site in picked.items():
        if leaf not in leaves:
            raise TargetError(f"the layout has {leaf!r} and the parameters have none; it is of another model.")
        if isinstance(leaves[leaf], Quantised):
            raise TreeError(f"{leaf} is quantised already.")
        kernel = nn.meta.unbox(leaves[leaf])
        if not is_floating(kernel) or tuple(kernel.shape)[-len(site.shape) :] != tuple(
            site.shape
        ):  # bases may be stacked in front
            raise TreeError(
                f"quantise: {leaf} is {kernel.dtype}{list(kernel.shape)}, and the layout has {list(site.shape)} of floats; it is of another model."
            )
        _require_finite(leaf, kernel)
        leaves[leaf] = rounded(kernel, len(site.kernel), method=method, double=double)
    return nested(leaves)


def _require_finite(leaf: str, kernel: Any) -> None:
    """Raises TreeError where an entry is not finite: it would be the maximum of its block and, through the maxima's mean, make all NaN."""
    if not is_finite(kernel):
        raise TreeError(
            f"{leaf} has entries that are infinite or NaN, which no code stands for; mend the base, or exclude the layer."
        )


def _chosen(layout: Mapping[str, Site], wanted, unwanted) -> dict[str, Site]:
    """The kernels by their own paths."""
    sites = {site.path: site for site in (site.at(place) for place, site in layout.items())}
    return chosen(LoRAConfig(rank=1, targets=wanted, excludes=unwanted), sites)


def rounded(kernel: jax.Array, ndim: int, *, method: str, double: bool) -> Quantised:
    """A kernel whose last `ndim` axes are one layer's; those before are a stack's.

    >>> rounded(jnp.array([[1.0, -0.4], [0.5, 0.0]]), 2, method="int8", double=False).codes[0, :4].tolist()
    [127, -51, 64, 0]
    """
    stack, shape = kernel.shape[: kernel.ndim - ndim], kernel.shape[kernel.ndim - ndim :]
    size = math.prod(shape)
    values = kernel.astype(jnp.float32).reshape(*stack, size)
    blocks = jnp.pad(values, [(0, 0)] * len(stack) + [(0, -size % BLOCK)]).reshape(*stack, -1, BLOCK)
    maxima: Any = jnp.maximum(jnp.abs(blocks).max(axis=-1), TINY)
    if double:
        maxima = _closed(maxima)
    open_maxima = _opened(maxima, blocks.shape[-2]) if double else maxima
    codes = _encoded(blocks / open_maxima[..., None], method)
    return Quantised(codes, maxima, tuple(shape), kernel.dtype, method)


def _encoded(values: jax.Array, method: str) -> jax.Array:
    """Codes of values in [-1, 1]: [..., BLOCK] -> int8 [..., BLOCK] or uint8 [..., BLOCK / 2]."""
    if method == "int8":
        return jnp.clip(jnp.round(values * 127), -127, 127).astype(jnp.int8)
    levels = jnp.asarray(NF4)
    middles = (levels[1:] + levels[:-1]) / 2
    nearest = jnp.searchsorted(middles, values).astype(jnp.uint8)
    return nearest[..., 0::2] << 4 | nearest[..., 1::2]


def _decoded(codes: jax.Array, method: str) -> jax.Array:
    """The inverse of `_encoded`, float32 [..., BLOCK]."""
    if method == "int8":
        return codes.astype(jnp.float32) / 127
    levels = jnp.asarray(NF4, jnp.float32)
    pairs = jnp.stack([levels[codes >> 4], levels[codes & 15]], axis=-1)
    return pairs.reshape(*codes.shape[:-1], -1)


def _closed(maxima: jax.Array) -> Maxima:
    """Maxima [*L, N] in 8 bits around their mean (section 3, "Double Quantization")."""
    mean = maxima.mean(axis=-1)
    centred = maxima - mean[..., None]
    pad = [(0, 0)] * (maxima.ndim - 1) + [(0, -maxima.shape[-1] % GROUP)]
    groups = jnp.pad(centred, pad).reshape(*maxima.shape[:-1], -1, GROUP)
    scale = jnp.maximum(jnp.abs(groups).max(axis=-1), TINY) / 127
    return Maxima(jnp.round(groups / scale[..., None]).astype(jnp.int8), scale, mean)


def _opened(maxima: Maxima, count: int) -> jax.Array:
    """The inverse of `_closed`, for so many blocks."""
    values = maxima.codes.astype(jnp.float32) * maxima.scale[..., None] + maxima.mean[..., None, None]
    return jnp.maximum(values.reshape(*values.shape[:-2], -1)[..., :count], TINY)
