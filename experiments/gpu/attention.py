"""Causal attention with grouped heads in bfloat16, forward and backward: this library's, XLA's and cuDNN's.

Letters: B batch, T tokens, H query heads, G key/value heads, K head width.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import floor, timing
from experiments.gpu.checks import check
from experiments.gpu.parts import Size
from lora_jax.errors import first_line
from lora_jax.models import attention

LENGTHS, TOKENS, HEADS, GROUPS, WIDTH = (512, 2048), 16384, 8, 2, 64
APART = 2e-2  # of the largest output: bfloat16 has eight bits
CALLS = 10


def compared(size: Size) -> dict[str, Any]:
    """Every implementation that runs here, at every length; `not_run` says why one does not."""
    found: dict[str, Any] = {"rows": {}, "ratio": {}, "checks": {}, "not_run": {}}
    for tokens in (64,) if size.is_smoke else LENGTHS:
        batch = 2 if size.is_smoke else TOKENS // tokens
        for part, values in _at(batch, tokens, 1 if size.is_smoke else CALLS, size.rounds).items():
            found[part] |= {f"T = {tokens}, {name}": value for name, value in values.items()}
    return found


def implementations() -> dict[str, Callable[..., jax.Array]]:
    """q [B, T, H, K], k and v [B, T, G, K] -> [B, T, H, K], each token seeing those before it and itself."""

    def ours(q, k, v):
        return attention.within_documents(q, k, v, jnp.zeros(q.shape[:2], jnp.int32))

    fused = functools.partial(jax.nn.dot_product_attention, is_causal=True)
    return {
        "lora_jax": ours,
        "XLA": functools.partial(fused, implementation="xla"),
        "cuDNN": functools.partial(fused, implementation="cudnn"),
    }


def _at(batch: int, tokens: int, calls: int, rounds: int) -> dict[str, dict[str, Any]]:
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(batch, tokens, heads, WIDTH) for heads in (HEADS, GROUPS, GROUPS, HEADS)]
    *inputs, cotangent = (jax.random.normal(k, shape, jnp.bfloat16) for k, shape in zip(keys, shapes, strict=True))
    works, outputs, not_run = {}, {}, {}
    for name, attend in implementations().items():
        both = jax.jit(functools.partial(_both, attend))
        try:
            outputs[name] = jax.block_until_ready(both(*inputs, cotangent))
        except Exception as error:  # of many kinds: no such device, library, width or dtype
            not_run[name] = f"{type(error).__name__}: {first_line(error)}"
            continue
        works[name] = lambda both=both: [both(*inputs, cotangent) for _ in range(calls)]
    times, rates = floor.alternate(works, rounds)
    # Two products forward and four backward, each 2 B H T T K over the half that is seen; one that computes the scores again takes a seventh.
    operations = 6 * batch * HEADS * tokens**2 * WIDTH
    moved = (
        2 * sum(value.nbytes for value in inputs) + 3 * cotangent.nbytes
    )  # q, k, v and their gradients; output, cotangent, output again
    rows = {
        name: floor.against(timing.summarise(values, per=calls), operations, rates, moved)
        for name, values in times.items()
    }
    others = [name for name in rows if name != "lora_jax"] if "lora_jax" in rows else []
    return {
        "rows": rows,
        "ratio": {f"lora_jax / {name}": rows["lora_jax"]["median_ms"] / rows[name]["median_ms"] for name in others},
        "checks": {
            f"{name} against lora_jax": check(_apart(outputs[name], outputs["lora_jax"]), APART) for name in others
        },
        "not_run": not_run,
    }


def _both(attend, q, k, v, cotangent):
    """(output, gradients of q, k and v)"""
    y, pull = jax.vjp(attend, q, k, v)
    return y, *pull(cotangent)


def _apart(got, expected) -> float:
    """The largest difference of an output or a gradient, over its largest entry."""
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(got, expected, strict=True)]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
