"""How a GGUF file says that positions are scaled."""

from typing import Any

import numpy as np

from lora_jax.errors import ModelError, shown
from lora_jax.models.rope import RopeScaling, frequencies

READ = {f"rope.scaling.{name}" for name in ("type", "factor", "original_context_length", "finetuned")} | {
    "rope.scale_linear"
}
# What all Llama 3.x have; the file holds only what comes of it and of the factor (8, or 32 of Llama 3.2).
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def scaling(metadata: Any, theta: float, width: int, factors: np.ndarray | None) -> dict[str, Any] | None:
    """`rope_scaling` of config.json, or None.

    Args:
      metadata: the file's.
      theta: the base.
      width: of a head.
      factors: "rope_freqs.weight" [width / 2], what each frequency is divided by.

    Raises:
      ModelError: for factors that Llama 3's rule does not give.
    """
    kind = metadata.get("rope.scaling.type", str)
    if factors is not None:
        if kind not in (None, "none"):
            raise ModelError(f"{metadata.where}: positions are scaled twice, by rope_freqs and by {shown(kind)}.")
        return _of_factors(metadata.where, theta, width, factors)
    factor = metadata.get("rope.scaling.factor", float) or metadata.get("rope.scale_linear", float) or None
    if kind == "none" or (kind in (None, "linear") and factor in (None, 1.0)):
        return None  # llama.cpp takes the factor for 1 where there is none, or 0
    original = metadata.get("rope.scaling.original_context_length", int)
    known = {"original_max_position_embeddings": original} if original else {}
    return {"rope_type": kind or "linear", "factor": factor, **known}


def _of_factors(where: str, theta: float, width: int, factors: np.ndarray) -> dict[str, Any]:
    found = {"rope_type": "llama3", "factor": round(float(factors.max()), 3), **LLAMA3}
    can_be = (
        factors.shape == (width // 2,) and np.isfinite(factors).all() and (factors > 0).all() and found["factor"] > 0
    )
    if not can_be or not np.allclose(factors, llama3_factors(theta, width, found), rtol=1e-4, atol=0):
        raise ModelError(
            f"{where}: its rope_freqs are not those of Llama 3's rule {shown(LLAMA3)}, which is all that is supported."
        )
    return found


def llama3_factors(theta: float, width: int, scaling: dict[str, Any]) -> np.ndarray:
    """What Llama 3.x divides the frequencies of a head by, [width / 2].

    >>> llama3_factors(5e5, 128, {"factor": 8.0, **LLAMA3})[[0, 32, 63]].round(3).tolist()
    [1.0, 2.695, 8.0]
    """
    scaled = RopeScaling(**{"rope_type": "llama3", **scaling})
    return frequencies(width, theta).astype(np.float64) / frequencies(width, theta, scaled)
