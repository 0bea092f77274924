"""A table of small NNX models, after tests/cases.py; their trees are answered for by the same independent route."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lora_jax import LoRAConfig, adapter_of, rebase
from lora_jax.nnx import LoRA
from tests.cases import randomised


class Tied(nnx.Module):
    """Tokens -> embedding -> a layer -> logits through the same embedding."""

    def __init__(self, dtype, rngs):
        self.embed = nnx.Embed(7, 4, dtype=dtype, rngs=rngs)
        self.layer = nnx.Linear(4, 4, dtype=dtype, rngs=rngs)

    def __call__(self, ids):
        return self.embed.attend(nnx.tanh(self.layer(self.embed(ids))))


class Block(nnx.Module):
    def __init__(self, dtype, rngs):
        self.norm = nnx.LayerNorm(4, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(4, 6, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(6, 4, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return x + self.down(nnx.tanh(self.up(self.norm(x))))


class Stack(nnx.Module):
    """Three blocks made by nnx.vmap, run by nnx.scan and nnx.remat."""

    def __init__(self, dtype, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make(rngs):
            return Block(dtype, rngs)

        self.blocks = make(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        @nnx.remat
        def run(x, block):
            return block(x)

        return run(x, self.blocks)


class Listed(nnx.Module):
    """Layers in a list; one of them is used twice."""

    def __init__(self, dtype, rngs):
        self.layers = nnx.List([nnx.Linear(4, 4, dtype=dtype, rngs=rngs), nnx.Linear(4, 4, dtype=dtype, rngs=rngs)])

    def __call__(self, x):
        return self.layers[0](nnx.tanh(self.layers[1](nnx.tanh(self.layers[0](x)))))


class Case(NamedTuple):
    name: str
    build: Callable[[Any, nnx.Rngs], nnx.Module]
    shape: tuple[int, ...]
    vocab: int = 0
    dora: bool = False

    @property
    def config(self) -> LoRAConfig:
        return LoRAConfig(rank=2, alpha=3, targets="*", dora=self.dora)

    @functools.cache  # noqa: B019
    def model(self, dtype=jnp.float32) -> LoRA:
        return LoRA(self.build(dtype, nnx.Rngs(0)), self.config)

    def x(self) -> jax.Array:
        random = np.random.default_rng(1)
        if self.vocab:
            return jnp.asarray(random.integers(self.vocab, size=self.shape), jnp.int32)
        return jnp.asarray(random.normal(size=self.shape), jnp.float32)

    @functools.cache  # noqa: B019
    def params(self) -> dict:
        """Parameters of which none is trivial, biases neither."""
        random = np.random.default_rng(2)
        base = jax.tree.map(
            lambda leaf: jnp.asarray(random.normal(size=leaf.shape) / 2, leaf.dtype), self.model().base_params
        )
        return randomised(rebase(base, adapter_of(self.model().init(jax.random.key(0))["params"])), seed=3)

    @functools.cache  # noqa: B019
    def apply(self) -> Callable:
        """(params, x) -> y, jitted; a tree without adapters is the base."""
        return jax.jit(lambda params, x: self.model().apply({"params": params}, x))


def _linear(**kwargs):
    return lambda dtype, rngs: nnx.Linear(4, 5, dtype=dtype, rngs=rngs, **kwargs)


def _general(*sizes, **kwargs):
    return lambda dtype, rngs: nnx.LinearGeneral(*sizes, dtype=dtype, rngs=rngs, **kwargs)


def _einsum(equation, *shapes):
    return lambda dtype, rngs: nnx.Einsum(equation, *shapes, dtype=dtype, rngs=rngs)


def _conv(d, k, window, **kwargs):
    return lambda dtype, rngs: nnx.Conv(d, k, window, dtype=dtype, rngs=rngs, **kwargs)


PLAIN = [
    Case("linear", _linear(), (2, 3, 4)),
    Case("linear_without_bias", _linear(use_bias=False), (4,)),
    Case("general", _general(4, (2, 5)), (2, 3, 4)),
    Case("general_axes", _general((3, 4), (2, 5), axis=(-2, -1)), (2, 3, 4)),
    Case("general_batch", _general(4, 5, axis=-1, batch_axis={0: 2}), (2, 3, 4)),
    Case(
        "attention", lambda dtype, rngs: nnx.MultiHeadAttention(2, 4, dtype=dtype, decode=False, rngs=rngs), (2, 3, 4)
    ),
    Case("einsum", _einsum("btd,dhk->bhtk", (4, 2, 3), (2, 3)), (2, 3, 4)),
    Case("einsum_transposed", _einsum("...hk,dhk->...d", (5, 2, 4)), (2, 3, 2, 4)),
    Case("einsum_batch_labels", _einsum("bhtd,hdk->bhtk", (2, 4, 3), (2, 3)), (2, 2, 3, 4)),
    Case("conv_1d_causal", _conv(3, 5, (3,), padding="CAUSAL"), (2, 8, 3)),
    Case("conv_2d_strided", _conv(3, 5, (3, 2), strides=2, padding="VALID"), (2, 7, 6, 3)),
    Case("conv_2d_groups", _conv(4, 6, (3, 3), feature_group_count=2), (2, 5, 5, 4)),
    Case("embed", lambda dtype, rngs: nnx.Embed(7, 4, dtype=dtype, rngs=rngs), (2, 3), vocab=7),
    Case("tied", Tied, (2, 3), vocab=7),
    Case("stack", Stack, (2, 4)),
    Case("listed", Listed, (2, 4)),
]
CASES = PLAIN + [case._replace(name=f"{case.name}-dora", dora=True) for case in PLAIN]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
one_dora = pytest.mark.parametrize(
    "case", [*PLAIN, CASES[len(PLAIN)]], ids=lambda case: case.name
)  # what DoRA changes once is enough
