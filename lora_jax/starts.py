"""How the two factors of an adapter begin. The update is zero at first under every scheme, and the base stays as it is.

PiSSA and OLoRA take the factors out of the base's own kernel; their papers subtract that part from the kernel. Here the
kernel is left alone and the part is kept beside the factors, frozen, as `start`: update = scale * (a b - start_a start_b).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from lora_jax import decompositions, dora
from lora_jax.config import LoRAConfig
from lora_jax.errors import TargetError, TreeError
from lora_jax.intake import is_finite
from lora_jax.leaves import Adapter, adapter_at, as_leaves, at_place, kernel_path, modules


def drawn(key: jax.Array, config: LoRAConfig, shape: tuple[int, int], rank: int, *, random: str, is_embed: bool):
    """`(a, b)` for a kernel [D, K], float32, of a scheme that does not look at it.

    Args:
      random: "a" or "b", the factor on the input side of the layer; the other is zero.
      is_embed: an embedding's b is N(0, 1) whatever the initialiser, as PEFT's lora_embedding_B; rows of tokens that never occur stay zero.
    """
    (d, k), zeros = shape, (jnp.zeros((shape[0], rank)), jnp.zeros((rank, shape[1])))
    if config.init == "orthogonal":
        return orthogonal(key, d, k, rank)
    if is_embed:
        return zeros[0], jax.random.normal(key, (rank, k))
    if random == "a":
        return config.init_a(key, (d, rank)), zeros[1]
    return zeros[0], config.init_a(key, (k, rank)).T


def orthogonal(key: jax.Array, d: int, k: int, rank: int) -> tuple[jax.Array, jax.Array]:
    """Both factors random, `a @ b` zero: their rows lie in orthogonal halves of R dimensions, as PEFT's "orthogonal" draws them.

    >>> a, b = orthogonal(jax.random.key(0), 5, 7, 4)
    >>> bool(jnp.abs(a @ b).max() < 1e-6), bool(jnp.abs(a).min() > 0)
    (True, True)
    """
    turn, left, right = jax.random.split(key, 3)
    q, _ = decompositions.qr(jax.random.normal(turn, (rank, rank)))
    a = jax.random.normal(left, (d, rank // 2)) @ q[0::2] / 10
    return a, q[1::2].T @ jax.random.normal(right, (rank // 2, k)) / 10


def pissa(kernel: jax.Array, rank: int, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`scale * a @ b` is the best approximation of the kernel [D, K] of rank R, its singular values shared evenly.

    PiSSA: Meng et al. 2024 (arXiv:2404.02948), equations 2 to 4; PEFT's "pissa". Where the kernel has fewer directions than R (all zeros, say), the
    others begin with `a` along a direction that it does not have and `b` zero, so that they train.

    >>> a, b = pissa(jnp.diag(jnp.array([3.0, 2.0, 1.0])), 1, jnp.asarray(1.0))
    >>> jnp.round(a @ b, 4).tolist()
    [[3.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    u, s, v = decompositions.svd(kernel)
    return decompositions.halves(u[:, :rank], s[:rank] / scale, v[:rank])


def olora(kernel: jax.Array, rank: int, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`b` [R, K] has orthonormal rows: the first R of a QR decomposition of the kernel's transpose.

    OLoRA: Büyükakyüz 2024 (arXiv:2406.01775), section 3; PEFT's "olora".
    """
    q, r = decompositions.qr(kernel.T)
    return r[:rank].T, q[:, :rank].T


FROM_KERNEL = {"pissa": pissa, "olora": olora}


def from_base(config: LoRAConfig, kernel: jax.Array, adapter: Adapter) -> Adapter:
    """The adapter of one layer with everything that follows from its kernel: factors, start, magnitude, norm.

    The kernel's axes are in order (see `leaves.at_place` for others).
    """
    if config.init in FROM_KERNEL:
        matrix = kernel.astype(jnp.float32).reshape(adapter.a.shape[0], -1)
        a, b = FROM_KERNEL[config.init](matrix, adapter.a.shape[1], adapter.scale)
        adapter = adapter._replace(a=a, b=b, start_a=a, start_b=b)
    if adapter.norm is not None:
        norm = dora.norm_like(adapter.norm, kernel)
        adapter = adapter._replace(magnitude=norm, norm=norm)
    return adapter


def require_finite(path: str, kernel: jax.Array) -> None:
    """Raises TreeError where a kernel that an adapter begins at has an entry that is infinite or NaN; one that is traced is not looked at.

    >>> require_finite("head/kernel", jnp.ones((2, 2)))
    """
    if is_finite(kernel):
        return
    raise TreeError(
        f"{path} has entries that are infinite or NaN, and the adapter would begin at them (PiSSA, OLoRA, DoRA); mend the base, or exclude the layer."
    )


def reads_base(config: LoRAConfig) -> bool:
    """Whether an adapter of this config begins with something that follows from the base's kernels."""
    return config.dora or config.init in FROM_KERNEL


def onto(config: LoRAConfig, fresh: dict, base: dict) -> dict:
    """The flat adapter tree `fresh`, begun anew on the kernels of a flat base as far as it depends on them."""
    begun = dict(fresh)
    for module in modules(fresh):
        adapter = adapter_at(fresh, module)
        kernel = nn.meta.unbox(base[kernel_path(base, module)])
        begun |= as_leaves(at_place(module, functools.partial(from_base, config))(kernel, adapter), module)
    return begun


def require_room(path: str, config: LoRAConfig, rank: int, shape: tuple[int, int]) -> None:
    """Raises TargetError where a scheme cannot have this rank at a kernel [D, K]."""
    if config.init in FROM_KERNEL and rank > min(shape):
        raise TargetError(
            f"{path or 'the root'}: init={config.init!r} takes the factors from the kernel, a matrix {shape[0]} x {shape[1]}, "
            f"which has no more than {min(shape)} directions; rank is {rank}. Lower it there, by rank_pattern or rank."
        )
