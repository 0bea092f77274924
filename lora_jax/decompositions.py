"""QR and singular value decompositions of one matrix or a stack, in any number in one program.

jaxlib's own batched ones hand each matrix to the thread pool and wait there. Where a program holds several, as one with layers stacked by
`nn.scan` has one for each module, and the pool has two threads, as on a machine of two cores, they wait for each other for ever
(jaxlib 0.10.2). So a stack is decomposed one matrix after another.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def _one_after_another(decompose: Callable) -> Callable:
    """`decompose` of a matrix, under `vmap` of each in its turn. Its derivative is JAX's own, and batched."""
    in_turn = jax.custom_jvp(jax.custom_batching.sequential_vmap(decompose))
    in_turn.defjvp(lambda matrices, changes: jax.jvp(decompose, matrices, changes))
    return in_turn


_qr = _one_after_another(lambda matrix: tuple(jnp.linalg.qr(matrix)))
_svd = _one_after_another(lambda matrix: tuple(jnp.linalg.svd(matrix, full_matrices=False)))


def halves(u: jax.Array, s: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(a [..., D, R], b [..., R, K]) whose product is `u @ diag(s) @ v`, the singular values shared evenly.

    A direction of singular value zero, but for rounding, has its column in a and a zero row in b: with both zero no gradient would ever move it.

    >>> a, b = halves(jnp.eye(2), jnp.array([4.0, 0.0]), jnp.eye(2))
    >>> a.tolist(), b.tolist()
    ([[2.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 0.0]])
    """
    least = jnp.finfo(s.dtype).eps * max(u.shape[-2], v.shape[-1]) * s[..., :1]
    root, is_zero = jnp.sqrt(s), s <= least
    a = jnp.where(is_zero[..., None, :], u, u * root[..., None, :])
    return a, jnp.where(is_zero[..., None], 0, root[..., None] * v)


def qr(matrices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(q [..., D, n], r [..., n, K]) with n = min(D, K), of matrices [..., D, K].

    >>> q, r = qr(jnp.arange(12.0).reshape(2, 3, 2))
    >>> q.shape, bool(jnp.allclose(q @ r, jnp.arange(12.0).reshape(2, 3, 2), atol=1e-5))
    ((2, 3, 2), True)
    """
    return jnp.vectorize(_qr, signature="(d,k)->(d,n),(n,k)")(matrices)


def svd(matrices: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(u [..., D, n], s [..., n], v [..., n, K]) with n = min(D, K), of matrices [..., D, K]; s falls.

    >>> svd(jnp.stack([jnp.eye(2), 2 * jnp.eye(2)]))[1].tolist()
    [[1.0, 1.0], [2.0, 2.0]]
    """
    return jnp.vectorize(_svd, signature="(d,k)->(d,n),(n),(n,k)")(matrices)
