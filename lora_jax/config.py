"""LoRAConfig: what is adapted, at which rank, and how strongly. The one place where scale = f(alpha, r) is defined."""

import dataclasses
import itertools
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lora_jax import initializers
from lora_jax.errors import ConfigError, closest, shown
from lora_jax.patterns import Pattern, all_normalised, is_iterable, normalised
from lora_jax.scalars import integer, number

SCALING_RULES = ("alpha/r", "alpha/sqrt(r)", "constant")
INITS = ("lora", "orthogonal", "pissa", "olora")
_SMALLEST = 1e-30  # an alpha, and the inverse of the largest: a scale is kept in float32
MOST = 2**31 - 1  # of a rank, as of any axis
OURS = {  # what other libraries call it -> what to write here
    "r": "rank=",
    "lora_alpha": "alpha=",
    "target_modules": "targets=",
    "module_path": "targets= (a regex as 're:...')",
    "exclude_modules": "excludes=",
    "lora_dropout": "dropout=",
    "use_rslora": "scaling='alpha/sqrt(r)'",
    "use_dora": "dora=",
    "init_lora_weights": "init= and init_a=",
    "modules_to_save": "trainable_mask(params, train=...)",
    "bias": "trainable_mask(params, bias=...)",
    "layers_to_transform": "targets=, with the layers in the patterns",
    "layers_pattern": "targets=, with the layers in the patterns",
    "task_type": "lora_jax.peft.save(..., task_type=...)",
    "base_model_name_or_path": "lora_jax.peft.save(..., base_model=...)",
    "weight_qtype": "lora_jax.quantised.quantise(base_params, layout)",
    "tile_size": "lora_jax.quantised.quantise(base_params, layout)",
    "fan_in_fan_out": "nothing: which axes are summed over is found",
    "inference_mode": "nothing: what trains is said by trainable_mask",
}


def scale_of(alpha: int | float, rank: int, scaling: str) -> float:
    """The factor of the low-rank update: `W + scale * a @ b`.

    `alpha/r` is Hu et al. 2021 (arXiv:2106.09685), section 4.1; `alpha/sqrt(r)` is rsLoRA, Kalajdzievski 2023
    (arXiv:2312.03732), theorem 3.2; `constant` takes alpha itself as the scale c, that is, alpha_paper = c r.

    >>> scale_of(16, 8, "alpha/r"), scale_of(16, 4, "alpha/sqrt(r)"), scale_of(2, 8, "constant")
    (2.0, 8.0, 2.0)
    """
    if scaling == "alpha/r":
        return alpha / rank
    if scaling == "alpha/sqrt(r)":
        return alpha / math.sqrt(rank)
    if scaling == "constant":
        return float(alpha)
    raise ConfigError(f"scaling is {shown(scaling)}; it must be one of {', '.join(map(repr, SCALING_RULES))}.")


@typing.no_type_check  # it validates itself, and says more than a type checker
@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Which layers of a model get a low-rank adapter, and what it looks like. Frozen, hashable, validated at once.

    Patterns (in `targets`, `excludes`, and as keys of `rank_pattern`, `alpha_pattern`, `roles`) are read on the paths of modules,
    `encoder/layer_0/query`, and of their kernels, `encoder/layer_0/query/kernel`: a *name* matches the last parts of a path (`query`,
    `layer_0/query`), a *glob* has one of `*?[` in it (`encoder/*/query`; `*` crosses `/`), a *regex* is a compiled `re.Pattern` or a string that
    starts with `re:` and must match the whole path. `"all-linear"` stands for every kernel that a product reads, but lookups and convolutions;
    `"output-layers"` for those of the products that the model's outputs come from, which PEFT leaves out.

    Args:
      rank: R > 0, the number of columns of `a` and rows of `b`.
      alpha: > 0; with `scaling="constant"` the scale itself. None: each layer's own rank (1 for "constant"), so
        scale 1 under `alpha/r` at any rank.
      targets: patterns, or one pattern.
      excludes: patterns; they win over `targets`.
      scaling: "alpha/r", "alpha/sqrt(r)" (rsLoRA) or "constant"; see `scale_of`.
      dropout: in [0, 1), on the input of `a`. Active when `apply` is given an rng named "dropout" and the model is in
        training, as its own `deterministic`, `train` or the like says.
      rank_pattern: pattern -> rank; the most specific match wins and the order is irrelevant.
      alpha_pattern: pattern -> alpha; likewise.
      init: how the two factors begin. "lora": `a` by `init_a`, `b` zero; "orthogonal": both random, their product zero;
        "pissa", "olora": from the base's kernel (`lora_jax.starts`). The update is zero at first under each of them.
      init_a: for "lora": "kaiming_uniform" (PEFT's default), "normal", "orthogonal" (orthonormal columns), or an
        initialiser of `lora_jax.initializers`.
      dora: whether each kernel also gets a trainable magnitude (`lora_jax.dora`).
      roles: pattern -> a letter for each axis of the kernels that it selects, instead of those that were found: "i" summed over, "o" free, "s"
        factors of its own for each index. An axis that is found as "i" or "o" may become "s". So an einsum over experts `up` [E, D, F], found as
        "oio" with one `a` for all of them, has an adapter for each as "sio"; gemma's `kv_einsum/w` [2, N, D, H] one for keys and one
        for values as "soio". Of a kernel that also reaches an operation without a rule, roles ask for `W + update` to be formed there.

    Raises:
      ConfigError: for any value outside the above.

    >>> config = LoRAConfig(rank=8, alpha=16, targets=("query", "value"), rank_pattern={"layer_0/query": 4})
    >>> config.scale(rank=8, alpha=16)
    2.0
    """

    rank: int
    alpha: float | None = None
    targets: Sequence[Pattern] | Pattern = "all-linear"
    excludes: Sequence[Pattern] | Pattern = ()
    scaling: str = "alpha/r"
    dropout: float = 0.0
    rank_pattern: Mapping[Pattern, int] | tuple = ()
    alpha_pattern: Mapping[Pattern, float] | tuple = ()
    init_a: str | initializers.Initializer = "kaiming_uniform"
    init: str = "lora"
    dora: bool = False
    roles: Mapping[Pattern, str] | tuple = ()

    def __new__(cls, *args, **kwargs):
        _require_own(kwargs)
        if kwargs and not args and "rank" not in kwargs:
            raise ConfigError("a LoRAConfig needs its rank.")
        return super().__new__(cls)

    def __post_init__(self):
        if not _is_one_of(SCALING_RULES, self.scaling):
            raise ConfigError(
                f"scaling is {shown(self.scaling)}; it must be one of {', '.join(map(repr, SCALING_RULES))}."
            )
        settled = {
            "rank": as_rank("rank", self.rank),
            "alpha": None if self.alpha is None else as_alpha("alpha", self.alpha),
            "dropout": _dropout(self.dropout),
            "targets": all_normalised(self.targets, "targets"),
            "excludes": all_normalised(self.excludes, "excludes"),
            "rank_pattern": _as_pairs("rank_pattern", self.rank_pattern, as_rank),
            "alpha_pattern": _as_pairs("alpha_pattern", self.alpha_pattern, as_alpha),
            "roles": _as_pairs("roles", self.roles, _letters, "letters"),
            "init_a": initializers.named(self.init_a),
        }
        for name, value in settled.items():
            object.__setattr__(self, name, value)
        self._check_values()

    def _check_values(self) -> None:
        if not self.targets:
            raise ConfigError('targets is empty; name the layers to adapt, e.g. ("query", "value") or "all-linear".')
        if not _is_one_of(INITS, self.init):
            raise ConfigError(f"init is {shown(self.init)}; it must be one of {', '.join(map(repr, INITS))}.")
        if not isinstance(self.dora, bool):
            raise ConfigError(f"dora is {shown(self.dora)}; it must be True or False.")
        odd = [rank for rank in (self.rank, *dict(self.rank_pattern).values()) if rank % 2]
        if self.init == "orthogonal" and odd:
            raise ConfigError(f"init is 'orthogonal', which halves the rank; it must be even, and {odd[0]} is not.")

    def __repr__(self) -> str:
        """The rank, and the fields that are not their defaults."""
        told = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        usual = {f.name: getattr(type(self)(1), f.name) for f in dataclasses.fields(self) if f.name != "rank"}
        differing = [f"{name}={value!r}" for name, value in told.items() if name not in usual or value != usual[name]]
        return f"LoRAConfig({', '.join(differing)})"

    def scale(self, *, rank: int, alpha: float | None) -> float:
        """The scale of a layer of this `rank` and `alpha` under the config's rule; alpha None as for the config.

        >>> LoRAConfig(rank=8, scaling="alpha/sqrt(r)").scale(rank=4, alpha=8)
        4.0
        """
        if alpha is None:
            alpha = 1 if self.scaling == "constant" else rank
        return scale_of(alpha, rank, self.scaling)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; `from_dict` reads it back.

        >>> LoRAConfig.from_dict(LoRAConfig(rank=2, targets="head").to_dict()) == LoRAConfig(rank=2, targets="head")
        True
        """
        return {
            "rank": self.rank,
            "alpha": self.alpha,
            "targets": list(self.targets),
            "excludes": list(self.excludes),
            "scaling": self.scaling,
            "dropout": self.dropout,
            "rank_pattern": dict(self.rank_pattern),
            "alpha_pattern": dict(self.alpha_pattern),
            "init_a": self.init_a.to_dict(),
            "init": self.init,
            "dora": self.dora,
            "roles": dict(self.roles),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LoRAConfig":
        """The config that `to_dict` wrote; what it does not say, as from an earlier version, is the default.

        Raises:
          ConfigError: for a field that does not exist, or without a rank.

        >>> LoRAConfig.from_dict({"rank": 2}).rank
        2
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"a LoRAConfig is read from a dict of its fields, and this is {shown(values)}.")
        _require_own(values)
        if "rank" not in values:
            raise ConfigError("a LoRAConfig needs its rank.")
        init_a = {"init_a": initializers.from_dict(values["init_a"])} if "init_a" in values else {}
        return cls(**{**values, **init_a})


def _is_one_of(names: tuple[str, ...], value: Any) -> bool:
    return isinstance(value, str) and value in names


def _require_own(given: Mapping[str, Any]) -> None:
    """Raises ConfigError for fields that a LoRAConfig does not have, with what to write instead of those of other libraries."""
    own = list(LoRAConfig.__dataclass_fields__)
    strange = [name for name in given if name not in own]
    if strange:
        hints = [f"{name} is written {OURS[name]}" for name in strange if name in OURS]
        hints += [f"closest to {name}: {closest(str(name), own, n=1)}" for name in strange if name not in OURS]
        raise ConfigError(
            f"LoRAConfig has no field {', '.join(map(str, strange))}: {'; '.join(hints)}; it has {', '.join(own)}."
        )


def as_rank(name: str, value: Any) -> int:
    """A rank as Python's integer. Raises ConfigError, by `name`, for what is none.

    >>> as_rank("rank", 8)
    8
    """
    rank = integer(value)
    if rank is None or not 1 <= rank <= MOST:
        most = f", and at most {MOST:,}" if rank is not None and rank > MOST else ""
        raise ConfigError(f"{name} is {shown(value)}; a rank must be an integer of at least 1{most}.")
    return rank


def as_alpha(name: str, value: Any) -> int | float:
    """An alpha as Python's number. Raises ConfigError, by `name`, for what is none.

    >>> as_alpha("alpha", 16)
    16
    """
    alpha = number(value)
    if alpha is None or not _SMALLEST <= alpha <= 1 / _SMALLEST:
        why = "" if alpha is None or alpha <= 0 else ", and not so far from 1 that float32 loses the scale"
        raise ConfigError(f"{name} is {shown(value)}; alpha must be a positive number{why}.")
    return alpha


def _dropout(value: Any) -> int | float:
    dropout = number(value)
    if dropout is None or not 0 <= dropout < 1:
        raise ConfigError(f"dropout is {shown(value)}; it must be a number in [0, 1).")
    return dropout


def _letters(name: str, letters: Any) -> str:
    if not (isinstance(letters, str) and set(letters) <= set("sio") and {"i", "o"} <= set(letters)):
        raise ConfigError(
            f'{name} is {shown(letters)}; it must be a letter for each axis, "i" (summed over), "o" (free) or "s" (factors of its own for each '
            'index), with an "i" and an "o" among them.'
        )
    return letters


def _as_pairs(field: str, value: Any, told: Callable, what: str = "numbers") -> tuple[tuple[str, Any], ...]:
    """Pairs of a pattern and what is told of it, sorted; the same pattern twice is refused."""
    if not is_iterable(value) or isinstance(value, str):
        raise ConfigError(f"{field} is {shown(value)}; it must be a dict from patterns to {what}.")
    items = list(value.items() if isinstance(value, Mapping) else value)
    if any(not isinstance(item, (tuple, list)) or len(item) != 2 for item in items):
        raise ConfigError(f"{field} is {shown(value)}; it must be a dict from patterns to {what}.")
    pairs = sorted((normalised(pattern, field), told(f"{field}[{shown(pattern)}]", each)) for pattern, each in items)
    twice = next((one for (one, _), (other, _) in itertools.pairwise(pairs) if one == other), None)
    if twice is not None:
        raise ConfigError(f"{field} has the pattern {shown(twice)} twice; give it once.")
    return tuple(pairs)


def require_a_config(config: Any, where: str) -> None:
    """Raises ConfigError for what is no LoRAConfig, in a call that takes one.

    >>> require_a_config(LoRAConfig(rank=2), "save_adapter")
    """
    if not isinstance(config, LoRAConfig):
        has_one = isinstance(getattr(config, "config", None), LoRAConfig)
        advice = "pass its .config" if has_one else "pass the LoRAConfig that the adapter was made with"
        raise ConfigError(f"{where}: config is a {type(config).__name__}; {advice}.")
