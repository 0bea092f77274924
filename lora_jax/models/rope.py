"""Rotary positions (Su et al. 2021, arXiv:2104.09864, section 3.2), and how families stretch them to longer texts.

Letters: B batch, T tokens, K head width.
"""

import dataclasses
import math
import typing
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax.errors import ModelError
from lora_jax.models.checks import require_positive

# rope_type -> the fields it needs, as Hugging Face's config.json calls them.
TYPES = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}


@typing.no_type_check  # it validates itself, and says more than a type checker
@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How frequencies change: "linear" (Chen et al. 2023, arXiv:2306.15595), "llama3" (Llama 3.1), "yarn" (Peng et al. 2023, arXiv:2309.00071).

    Raises:
      ModelError: for another type, a field that its type needs and that is missing, or a value that cannot be.
    """

    rope_type: str
    factor: float | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_position_embeddings: int | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None  # yarn: what cosines and sines are multiplied by; None as the paper has it

    def __post_init__(self):
        if self.rope_type not in TYPES:
            raise ModelError(f"rope_scaling: the type is {self.rope_type!r}; there is code for {', '.join(TYPES)}.")
        missing = [name for name in TYPES[self.rope_type] if getattr(self, name) is None]
        if missing:
            raise ModelError(f"rope_scaling: {self.rope_type} needs {', '.join(missing)}.")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "rope_type" or value is None:
                continue
            require_positive("rope_scaling", field.name, value)
        if self.rope_type == "llama3" and self.low_freq_factor >= self.high_freq_factor:
            raise ModelError(
                f"rope_scaling: low_freq_factor is {self.low_freq_factor}; it must be below high_freq_factor {self.high_freq_factor}."
            )

    def values(self) -> dict[str, Any]:
        """What config.json says: the fields that are set.

        >>> RopeScaling("linear", 8.0).values()
        {'rope_type': 'linear', 'factor': 8.0}
        """
        needed = ("rope_type", *TYPES[self.rope_type])
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name in needed or (value is not None and value != usual[name])
        }


class Rotation(NamedTuple):
    """Cosines and sines of every token's angles, [B, T, 1, K/2] each."""

    cos: jax.Array
    sin: jax.Array


def frequencies(width: int, theta: float, scaling: RopeScaling | None = None) -> np.ndarray:
    """Radians a position, float32 [K/2]: `theta ** (-2i / K)`, scaled.

    >>> frequencies(4, 100.0).tolist(), frequencies(4, 100.0, RopeScaling("linear", 2.0)).tolist()
    ([1.0, 0.10000000149011612], [0.5, 0.05000000074505806])
    """
    plain = np.float32(1) / np.float32(theta) ** (np.arange(0, width, 2, dtype=np.float32) / np.float32(width))
    if scaling is None:
        return plain
    if scaling.rope_type == "linear":
        return plain / np.float32(scaling.factor)
    return (_llama3 if scaling.rope_type == "llama3" else _yarn)(plain, width, theta, scaling)


def _llama3(plain: np.ndarray, width: int, theta: float, of: RopeScaling) -> np.ndarray:
    """Long waves are stretched, short ones kept, those between mixed."""
    turns = of.original_max_position_embeddings * plain / (2 * np.pi)  # within the length that was trained on
    kept = np.clip((turns - of.low_freq_factor) / (of.high_freq_factor - of.low_freq_factor), 0, 1)
    return ((1 - kept) * plain / of.factor + kept * plain).astype(np.float32)


def _yarn(plain: np.ndarray, width: int, theta: float, of: RopeScaling) -> np.ndarray:
    """Section 3.2 of the paper: interpolated below `beta_slow` turns, kept above `beta_fast`, a ramp between."""

    def place(turns: float) -> float:
        return width * math.log(of.original_max_position_embeddings / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(place(of.beta_fast)), 0), min(math.ceil(place(of.beta_slow)), width - 1)
    ramp = np.clip((np.arange(width // 2) - low) / max(high - low, 0.001), 0, 1)
    return (ramp * plain / of.factor + (1 - ramp) * plain).astype(np.float32)


def _strength(scaling: RopeScaling | None) -> float:
    """What cosines and sines are multiplied by."""
    if scaling is None or scaling.rope_type != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(scaling.factor) + 1 if scaling.factor > 1 else 1.0


def rotation(
    positions: jax.Array, width: int, theta: float, scaling: RopeScaling | None = None, dtype: Any = jnp.float32
) -> Rotation:
    """Of tokens at `positions` int32 [B, T]; angles are float32, what is returned is of `dtype`.

    >>> rotation(jnp.zeros((2, 3), jnp.int32), 8, 1e4).cos.shape
    (2, 3, 1, 4)
    """
    angle = positions[..., None, None].astype(jnp.float32) * frequencies(width, theta, scaling)[None, None, None]
    strength = _strength(scaling)
    return Rotation((jnp.cos(angle) * strength).astype(dtype), (jnp.sin(angle) * strength).astype(dtype))


def rotate(x: jax.Array, by: Rotation) -> jax.Array:
    """x [B, T, *, K] with dimensions i and i + K/2 turned together, as Llama pairs them."""
    half = x.shape[-1] // 2
    left, right = x[..., :half], x[..., half:]
    return jnp.concatenate([left * by.cos - right * by.sin, right * by.cos + left * by.sin], axis=-1)
