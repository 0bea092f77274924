"""Random bits on a CPU, faster: the rounds of Threefry as one fused kernel.

JAX lowers Threefry to a loop of five groups of rounds on a CPU, and each group writes its arrays to memory; every dropout mask pays for it. On
other devices its rounds are unrolled. The bits are the same.
"""

import jax
import jax.numpy as jnp
from jax.extend.random import threefry2x32_p
from jax.interpreters import mlir

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA
GROUPS = 5  # of four rounds: Threefry-2x32-20


def fuse_on_cpu() -> None:
    """Programs compiled from now on in this process draw their bits by `threefry`."""
    mlir.register_lowering(threefry2x32_p, mlir.lower_fun(threefry, multiple_results=True), platform="cpu")


def threefry(key0: jax.Array, key1: jax.Array, x0: jax.Array, x1: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 with 20 rounds of the counters (x0, x1), all uint32 of one shape.

    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4.2; the values are those of their known-answer tests.

    >>> zero = jnp.uint32(0)
    >>> [hex(word) for word in threefry(zero, zero, zero, zero)]
    ['0x6b200159', '0x99ba4efe']
    """
    keys = (key0, key1, key0 ^ key1 ^ jnp.uint32(PARITY))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for group in range(GROUPS):
        for rotation in ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = x0 ^ (x1 << jnp.uint32(rotation) | x1 >> jnp.uint32(32 - rotation))
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return x0, x1
