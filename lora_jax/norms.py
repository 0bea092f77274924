"""Whether the norms that a magnitude (DoRA) keeps of its kernel are those of the kernel that it lies beside."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lora_jax import dora
from lora_jax.errors import TreeError
from lora_jax.intake import is_known
from lora_jax.leaves import NAMES, Adapter, at_place, kernel_paths, modules

TOLERANCE = 1e-4  # of a norm: float32 sums in another order


def require_norms(leaves: Mapping[str, Any], where: str) -> None:
    """Raises TreeError where a flat tree has cached norms of another base's kernels; what is traced, or only a shape, is not looked at.

    What else an adapter keeps of a base, the start of PiSSA and OLoRA, is a part of its update, which is the same on any base.

    Args:
      where: the function that asks, for the message.

    >>> one = jnp.ones((1, 1))
    >>> adapter = {"lora_a": one, "lora_b": one, "lora_scale": jnp.ones(()), "lora_magnitude": one, "lora_norm": one}
    >>> require_norms({"kernel": one, **adapter}, "merge")
    """
    for module in modules(leaves):
        adapter = Adapter(*(leaves.get(module + name) for name in NAMES))
        path = next((path for path in kernel_paths(module) if path in leaves), None)
        if path is None or any(part is None for part in (adapter.b, adapter.scale, adapter.magnitude, adapter.norm)):
            continue  # no magnitude, or only a part of a tree
        kernel = nn.meta.unbox(leaves[path])
        if not all(map(is_known, (kernel, *(leaf for leaf in adapter if leaf is not None)))) or not kernel.ndim:
            continue
        with jax.ensure_compile_time_eval():  # also of arrays that a traced function closes over
            if not (np.any(adapter.norm) or np.any(adapter.magnitude)):
                continue  # zeros that are to be filled
            apart = _apart(module, kernel, adapter)
        if not apart <= _tolerance(kernel, adapter.norm):
            raise TreeError(
                f"{where}: {path} has other norms than the adapter beside it was made for ({apart:.1%} apart, DoRA): it is another base's, or "
                "was changed; take them anew by lora_jax.rebase(base_params, adapter)."
            )


def _apart(module: str, kernel: Any, adapter: Any) -> float:
    """The largest difference of a norm, over the largest norm; 0 where the shapes do not fit, which others tell."""
    adapter = adapter._replace(**{n: jnp.asarray(v) for n, v in adapter._asdict().items() if v is not None})
    if adapter.norm.ndim != kernel.ndim:
        return 0.0
    found = np.asarray(at_place(module, lambda w, own: dora.norm_like(own.norm, w))(jnp.asarray(kernel), adapter))
    kept = np.asarray(adapter.norm, np.float32)
    if found.shape != kept.shape:
        return 0.0
    return float(np.abs(found - kept).max(initial=0.0) / max(np.abs(found).max(initial=0.0), np.finfo(np.float32).tiny))


def _tolerance(kernel: Any, norm: Any) -> float:
    """That of the coarser of the two formats, in which either may have been rounded."""
    return TOLERANCE + 4 * max(float(jnp.finfo(leaf.dtype).eps) for leaf in (kernel, norm))
