"""Adapters as hooks of NNX layers: each sits where the layer calls its product, and adds the side path to it.

Linear and LinearGeneral (so MultiHeadAttention) call `dot_general`, Einsum calls `einsum_op`, Conv calls `conv_general_dilated`, all
before they add their bias; an Embed calls nothing, and gets a subclass of its class.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lora_jax import contraction, convolution, dora, lowrank
from lora_jax.errors import TargetError
from lora_jax.leaves import NAMES, TRAINABLE, Adapter, as_leaves


class LoRAParam(nnx.LoRAParam):
    """What trains of an adapter: `nnx.DiffState(0, LoRAParam)` differentiates it alone, and so do trainers that ask for `nnx.LoRAParam`."""


class LoRASetting(nnx.Variable):
    """What does not: scales, cached norms, where PiSSA's factors began."""


class Hook(nnx.Module):
    """The adapter of one layer, called in place of the layer's own product."""

    def __init__(self, adapter: Adapter, dropout: nnx.Dropout | None, base: Callable | None = None):
        self.base = base
        self.dropout = nnx.data(dropout)
        for name, leaf in as_leaves(adapter).items():
            setattr(self, name, (LoRAParam if name in TRAINABLE else LoRASetting)(leaf))

    def adapter(self) -> Adapter:
        found = Adapter(*(getattr(self, name)[...] if hasattr(self, name) else None for name in NAMES))
        if found.scale.ndim:
            raise TargetError(
                "a stack of layers runs with the settings of all of them at once: its nnx.scan or nnx.vmap must split LoRASetting as it "
                "splits Param, by in_axes=0 or nnx.StateAxes({(nnx.Param, LoRASetting): 0, ...: None})."
            )
        return found

    def dropped(self, x: jax.Array) -> jax.Array:
        return x if self.dropout is None else self.dropout(x)

    def _added(self, y: jax.Array, side: jax.Array, gain: jax.Array | None) -> jax.Array:
        """No bias is in y yet."""
        side = side.astype(y.dtype)
        if gain is None:
            return y + side
        gain = gain.reshape((1,) * (y.ndim - gain.ndim) + gain.shape)
        return y + ((gain - 1).astype(y.dtype) * y + gain.astype(y.dtype) * side)

    def _along(self, labels: contraction.Labels, kernel: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        adapter = self.adapter()
        side = contraction.side_path(labels, kernel.shape, self.dropped(x), *adapter.factors(), adapter.scale)
        return self._added(y, side, None if adapter.magnitude is None else labels.spread(dora.gain(kernel, adapter)))


class DotHook(Hook):
    """`lax.dot_general` with a side path."""

    def __call__(self, x, kernel, dimension_numbers, **kwargs):
        y = self.base(x, kernel, dimension_numbers, **kwargs)
        return self._along(contraction.of_dot(dimension_numbers, x.ndim, kernel.ndim), kernel, x, y)


class EinsumHook(Hook):
    """`jnp.einsum` with a side path."""

    def __call__(self, einsum_str, x, kernel, **kwargs):
        y = self.base(einsum_str, x, kernel, **kwargs)
        return self._along(contraction.of_einsum(einsum_str, x.ndim), kernel, x, y)


class ConvHook(Hook):
    """`lax.conv_general_dilated` with a side path; features are the last axis, as in nnx.Conv."""

    def __call__(self, x, kernel, *args, feature_group_count=1, **kwargs):
        def run(some_kernel, x):
            return self.base(x, some_kernel, *args, feature_group_count=feature_group_count, **kwargs)

        adapter, narrow_run = self.adapter(), functools.partial(run, x=self.dropped(x))
        side = convolution.side_path(
            narrow_run, kernel.shape, feature_group_count, *adapter.factors(), adapter.scale, x.dtype
        )
        gain = None if adapter.magnitude is None else dora.gain(kernel, adapter).reshape(-1)
        return self._added(run(kernel, x), side, gain)


class EmbedHook(Hook):
    """Rows of `a`, then b; and the same for a tied output layer."""

    def __call__(self, ids, y, kernel):
        adapter = self.adapter()
        a, b = adapter.factors()
        side = lowrank.scaled_matmul(jnp.take(a, ids, axis=0).astype(y.dtype), b, adapter.scale)
        return self._added(y, side, self._gain(kernel, adapter))

    def attend(self, query, base, kernel):
        adapter = self.adapter()
        a, b = adapter.factors()
        gain = self._gain(kernel, adapter)
        query = (
            query if gain is None else query * gain.reshape((1,) * (query.ndim - 1) + gain.shape).astype(query.dtype)
        )
        y = base(query)
        return self._added(y, lowrank.side_path(self.dropped(query.astype(y.dtype)), b.T, a.T, adapter.scale), None)

    def _gain(self, kernel: jax.Array, adapter: Adapter) -> jax.Array | None:
        return None if adapter.magnitude is None else dora.gain(kernel, adapter).reshape(-1)


@functools.cache
def adapted_class(kind: type) -> type:
    """The subclass of an Embed's class that has an adapter; without slots of its own, so that an Embed can become one."""

    def call(self, inputs, **kwargs):
        return self.lora(inputs, kind.__call__(self, inputs, **kwargs), self.embedding[...])

    def attend(self, query, **kwargs):
        return self.lora.attend(query, functools.partial(kind.attend, self, **kwargs), self.embedding[...])

    return type(f"LoRA{kind.__name__}", (kind,), {"__slots__": (), "__call__": call, "attend": attend})


def attach(module: nnx.Module, adapter: Adapter, dropout: nnx.Dropout | None) -> None:
    """Puts an adapter on a layer, in place; its own parameters, and for all but Embed its class, stay as they are."""
    if isinstance(module, nnx.Embed):
        module.__class__ = adapted_class(type(module))
        module.lora = nnx.data(EmbedHook(adapter, dropout))
    elif isinstance(module, nnx.Einsum):
        module.einsum_op = nnx.data(EinsumHook(adapter, dropout, module.einsum_op))
    elif isinstance(module, nnx.Conv):
        module.conv_general_dilated = nnx.data(ConvHook(adapter, dropout, module.conv_general_dilated))
    else:
        module.dot_general = nnx.data(DotHook(adapter, dropout, _product_of(module)))


def _product_of(module: Any) -> Callable:
    """What a Linear or LinearGeneral multiplies by; a class of products gives way to one of its instances."""
    kind = getattr(module, "dot_general_cls", None)
    if kind is None:
        return module.dot_general or jax.lax.dot_general
    module.dot_general_cls = None
    return kind()
