"""What a decoder's config.json says of positions: rope_theta, rope_scaling and rope_local_base_freq, whichever release of transformers wrote it.

Release 4 has them side by side; release 5 keeps them in `rope_parameters`, of Gemma 3 one for each kind of layers. What is said twice, and
differently, is refused: which of the two holds is another matter in each release.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lora_jax.errors import ModelError, shown
from lora_jax.models import rope
from lora_jax.models.causal_config import FULL, SLIDING
from lora_jax.models.rope import RopeScaling

NOT_SCALED = ("default", None)  # rope types
BY_KIND = "gemma3_text"  # the family whose kinds of layers have parameters of their own


def fields(where: Any, kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of CausalLMConfig that are said; rope_scaling always is.

    Args:
      kind: the model_type.
      values: of config.json.

    Raises:
      ModelError: for what contradicts itself, or what there is no code for.

    >>> fields("config.json", "llama", {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}})
    {'rope_theta': 500000.0, 'rope_scaling': None}
    """
    told = dict(values.get("rope_parameters") or {})
    is_by_kind = FULL in told or SLIDING in told
    if told and is_by_kind != (kind == BY_KIND):
        raise ModelError(
            f"{where}: rope_parameters are {shown(told)}; {BY_KIND} has some for {FULL!r} and for {SLIDING!r}, and other families one for all."
        )
    found: dict[str, Any] = {}
    near, told = (told.get(SLIDING), told.get(FULL)) if is_by_kind else (None, told)
    near = _joined(where, near, {"rope_theta": values.get("rope_local_base_freq")})
    if near.get("rope_type") not in NOT_SCALED:
        raise ModelError(f"{where}: rope_parameters of {SLIDING} are {near!r}; only unscaled ones can be read here.")
    if "rope_theta" in near:
        found["rope_local_base_freq"] = near["rope_theta"]
    beside = {name: values.get(name) for name in ("rope_theta", "partial_rotary_factor")}
    said = _joined(where, told, values.get("rope_scaling"), beside)
    if "rope_theta" in said:
        found["rope_theta"] = said["rope_theta"]
    found["rope_scaling"] = _scaling(where, said, values)
    return found


def _joined(where: Any, *sources: Any) -> dict[str, Any]:
    """What several places say together, without nulls; "type" is the first releases' word for rope_type."""
    found: dict[str, Any] = {}
    for source in sources:
        if not isinstance(source, Mapping | None):
            raise ModelError(f"{where}: rope_parameters has {shown(source)}; expected an object, {{...}}.")
        for name, value in (source or {}).items():
            name = "rope_type" if name == "type" else name
            if value is not None and found.setdefault(name, value) != value:
                raise ModelError(
                    f"{where}: {name} of the positions is said twice, {shown(found[name])} and {shown(value)}; leave one."
                )
    if found.get("partial_rotary_factor", 1) != 1:
        raise ModelError(
            f"{where}: partial_rotary_factor is {shown(found['partial_rotary_factor'])}; there is code for heads that turn as a whole, 1.0."
        )
    return found


def _scaling(where: Any, told: Mapping[str, Any], values: Mapping[str, Any]) -> RopeScaling | None:
    kind = told.get("rope_type")
    known = {field.name for field in dataclasses.fields(RopeScaling)}
    rest = {name: value for name, value in told.items() if name not in {"rope_theta", "partial_rotary_factor"}}
    if kind is None and rest:
        raise ModelError(
            f"{where}: rope_scaling has {', '.join(sorted(rest))} and no rope_type; there is code for {', '.join(rope.TYPES)}."
        )
    if kind in NOT_SCALED:
        return None
    odd = sorted(name for name, value in rest.items() if name not in known and (name, value) != ("truncate", True))
    if odd and kind in rope.TYPES:
        raise ModelError(f"{where}: rope_scaling has {', '.join(odd)}, for which there is no code.")
    said = {name: value for name, value in rest.items() if name in known}
    if kind in ("llama3", "yarn"):
        length = "original_max_position_embeddings"
        said = _joined(where, said, {length: values.get(length)})
        if kind == "yarn":
            said.setdefault(length, values.get("max_position_embeddings"))
    try:
        return RopeScaling(**{**said, "rope_type": kind})
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
