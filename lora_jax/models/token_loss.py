"""Cross-entropy of a language model's output layer, a few hundred rows at a time.

Letters: N rows (tokens that are scored), D hidden, V vocabulary.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

CHUNK = 512  # rows; their logits then stay in a CPU's cache (BUILD_NOTES.md has the measurement)


def token_losses(
    score: Callable[[jax.Array], jax.Array], states: jax.Array, targets: jax.Array, *, chunk: int = CHUNK
) -> jax.Array:
    """Nats float32 [N] of `targets` int32 [N] under `score(states)`, for states [N, D].

    The logits [N, V] never exist as a whole, forward or backward: each chunk's are computed again for its gradient.

    Args:
      score: states [n, D] -> logits [n, V].

    >>> losses = token_losses(lambda x: x, jnp.zeros((3, 4)), jnp.array([0, 1, 2]), chunk=2)
    >>> [round(float(loss), 3) for loss in losses]
    [1.386, 1.386, 1.386]
    """
    n = len(targets)
    chunk = min(chunk, n)
    pad = -n % chunk
    states = jnp.pad(states, ((0, pad), (0, 0))).reshape(-1, chunk, states.shape[-1])
    padded = jnp.pad(targets, (0, pad)).reshape(-1, chunk)

    @jax.checkpoint
    def losses(of):
        logits = score(of[0]).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, of[1])

    return jax.lax.map(losses, (states, padded)).reshape(-1)[:n]
