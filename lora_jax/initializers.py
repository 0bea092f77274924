"""Initialisers of the random factor `a` [D, R]. The other factor, `b` [R, K], starts at zero, so the update does too.

Each is a frozen dataclass: callable like `jax.nn.initializers`, comparable, and written into checkpoints by name.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from lora_jax.errors import ConfigError, shown
from lora_jax.scalars import number


@dataclasses.dataclass(frozen=True)
class Initializer:
    """A rule that draws `a`: `(key, shape [D, R], dtype) -> array`."""

    def __call__(self, key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
        raise TypeError(f"{type(self).__name__} is abstract; use one of {', '.join(BY_NAME)}.")

    def to_dict(self) -> dict[str, Any]:
        """The name and the fields, JSON-ready."""
        name = next(name for name, kind in BY_NAME.items() if kind is type(self))
        return {"name": name, **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class KaimingUniform(Initializer):
    """U(-1/sqrt(D), +1/sqrt(D)), variance 1/(3 D): PEFT's and loralib's default, `kaiming_uniform_(a=sqrt(5))`.

    He et al. 2015 (arXiv:1502.01852), section 2.2, with a leaky-ReLU gain of sqrt(1/3).

    >>> bool(jnp.abs(KaimingUniform()(jax.random.key(0), (100, 8))).max() <= 0.1)
    True
    """

    def __call__(self, key, shape, dtype=jnp.float32):
        return jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class Normal(Initializer):
    """N(0, stddev^2); without a stddev, 1/R as PEFT's "gaussian". Hu et al. 2021, section 4.1, draws A Gaussian.

    >>> bool(abs(Normal(0.5)(jax.random.key(0), (1000, 8)).std() - 0.5) < 0.02)
    True
    """

    stddev: int | float | None = None

    def __post_init__(self):
        if self.stddev is not None:
            object.__setattr__(self, "stddev", _size("Normal has stddev", self.stddev))

    def __call__(self, key, shape, dtype=jnp.float32):
        stddev = 1 / shape[-1] if self.stddev is None else self.stddev
        return stddev * jax.random.normal(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class Orthogonal(Initializer):
    """Orthonormal columns (rows if R > D), times `gain`: `a.T @ a = gain^2 I`. Saxe et al. 2014 (arXiv:1312.6120).

    >>> a = Orthogonal()(jax.random.key(0), (6, 2))
    >>> bool(jnp.allclose(a.T @ a, jnp.eye(2), atol=1e-6))
    True
    """

    gain: int | float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "gain", _size("Orthogonal has gain", self.gain))

    def __call__(self, key, shape, dtype=jnp.float32):
        return jax.nn.initializers.orthogonal(self.gain)(key, shape, dtype)


def _size(what: str, value: Any) -> int | float:
    """Of a draw. With 0 both factors would be zero, and never move."""
    found = number(value)
    if found is None or found <= 0:
        raise ConfigError(f"init_a {what} {shown(value)}; it must be a positive number.")
    return found


BY_NAME: dict[str, type[Initializer]] = {
    "kaiming_uniform": KaimingUniform,
    "normal": Normal,
    "orthogonal": Orthogonal,
}


def named(init: Any) -> Initializer:
    """The initialiser of that name with its default fields; an initialiser passes through.

    >>> named("normal")
    Normal(stddev=None)
    """
    if type(init) in BY_NAME.values():
        return init
    if not isinstance(init, str) or init not in BY_NAME:
        raise ConfigError(
            f"init_a is {shown(init)}; it must be one of {', '.join(BY_NAME)} or an initialiser of lora_jax.initializers."
        )
    return BY_NAME[init]()


def from_dict(values: dict[str, Any] | str | Initializer) -> Initializer:
    """The inverse of `Initializer.to_dict`.

    >>> from_dict({"name": "normal", "stddev": 0.5})
    Normal(stddev=0.5)
    """
    if not isinstance(values, dict):
        return named(values)
    kind = type(named(values.get("name")))
    fields, own = {name: value for name, value in values.items() if name != "name"}, kind.__dataclass_fields__
    strange = sorted(fields.keys() - own.keys())
    if strange:
        raise ConfigError(f"init_a {kind.__name__} has no field {strange[0]!r}; it has {', '.join(own) or 'none'}.")
    return kind(**fields)
