"""What of a PEFT folder does not fit a model: one phrase for each tensor that is missing, unexpected or of another shape."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from lora_jax.peft import adapter_config, experts, targeting, tensors, ties, tokens
from lora_jax.peft.keys import Found
from lora_jax.peft.model import Model
from lora_jax.peft.names import Slot
from lora_jax.peft.places import Place
from lora_jax.peft.ties import Copies

OUTPUT = "lm_head"  # whose weight PEFT saves beside its adapter, by constants.EMBEDDING_LAYER_NAMES


def misfits(values, found: Found, model: Model, copies: Copies) -> list[str]:
    """All of them.

    Args:
      found: what the file has, adapters by what they adapt, without the copies that tied tables have.
    """
    adapters, others = found.adapters, found.others
    return [
        *copies.problems,
        *targeting.idle(values, model.slots, _called(adapters, model) | copies.adapters),
        *_idle_parameters(values, model),
        *_unusable(found.every),
        *_untargeted(values, adapters, model),
        *_problems(values, adapters, model, copies),
        *_odd(values, others, model.places, adapters),
        *_missing(values, others, model.places, adapters),
        *tokens.misfits(values, found.rows, model.places, model.layout, bool(model.tied)),
    ]


def _unusable(found: Mapping[str, np.ndarray]) -> list[str]:
    """One phrase for each tensor whose numbers are no weights."""
    lines = []
    for key, tensor in sorted(found.items()):
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            lines.append(f"{key} is of {tensor.dtype}, expected floating point")
        elif not _is_finite(tensor):
            lines.append(f"{key} is not finite")
    return lines


def _is_finite(tensor: np.ndarray) -> bool:
    with np.errstate(over="ignore"):  # a float64 may be too large for the float32 that it is read as
        return bool(np.isfinite(np.asarray(tensor, np.float32)).all())


def _called(adapters, model: Model) -> set[str]:
    return {model.called(path) if path in model.slots else path for path in adapters}


def _idle_parameters(values, model: Model) -> list[str]:
    told = values.get("target_parameters") or []
    every = {*model.slots, *(f"{path}.weight" for path in model.slots)}
    idle = [
        name
        for name in told
        if not any(targeting.names_parameter({"target_parameters": [name]}, path) for path in every)
    ]
    return [f"target_parameters names {name!r}, and names_of= calls no parameter so" for name in idle]


def _untargeted(values, adapters, model: Model) -> list[str]:
    """One phrase for each adapter that is named as a target and not in the file, or the other way round."""
    slots, layout = model.slots, model.layout
    modules = {path: layout[slot.module].is_linear for path, slot in slots.items() if not slot.mark}
    named = targeting.targeted(values, modules, adapters.keys())
    named |= {
        path for path in slots if targeting.names_parameter(values, path if slots[path].mark else f"{path}.weight")
    }
    missing, unnamed = named - adapters.keys(), (adapters.keys() & slots.keys()) - named
    if targeting.is_all_linear(values) and len(missing) == 1:
        missing = set()  # PEFT leaves the output layer out; which one that is, only torch's class knows
    if values.get("ensure_weight_tying"):  # torch's output layer is tied, and named by its table
        unnamed = {
            path
            for path in unnamed
            if not any(ties.is_copy(adapters[path], adapters[table]) for table in named & adapters.keys())
        }
    return [
        *(f"missing the adapter of {path}, which {_field(slots[path])} names" for path in sorted(missing)),
        *(f"unexpected adapter of {path}, which {_field(slots[path])} does not name" for path in sorted(unnamed)),
    ]


def _field(slot: Slot) -> str:
    return "target_parameters" if slot.mark else "target_modules"


def _problems(values, adapters, model: Model, copies: Copies) -> list[str]:
    """One phrase for each tensor of an adapter that is missing, unexpected or of another shape or rank."""
    lines = []
    for path, found in sorted(adapters.items()):
        slot = model.slots.get(path)
        if slot is None:
            lines.append(f"unexpected {path}, which is no layer of this model")
            continue
        tensors.require_torch_layout(
            path, model.layout[slot.module], ties=path in copies.tables and not values.get("use_dora")
        )
        expected = _expected(values, path, found, model)
        lines += [f"missing {path}.{suffix}" for suffix in sorted(expected.keys() - found.keys())]
        lines += [f"unexpected {path}.{suffix}" for suffix in sorted(found.keys() - expected.keys())]
        lines += [
            f"{path}.{suffix} is {list(found[suffix].shape)}, expected {list(shape)}"
            for suffix, shape in expected.items()
            if suffix in found and found[suffix].shape != shape
        ]
        if np.any(found.get(tensors.BIAS, 0)) and model.bias(slot) is None:
            lines.append(f"unexpected {path}.{tensors.BIAS}: the layer has no bias here, which could hold it")
    return lines if adapters else ["there is no adapter in it"]


def _expected(values, path: str, found, model: Model) -> dict[str, tuple[int, ...]]:
    """Suffix -> shape of an adapter's tensors, of the rank that it has where that is one it may have."""
    site, allowed = model.site(path), adapter_config.ranks(values, model.called(path))
    rank = model.rank(path, found) or 1
    rank = rank if not allowed or rank in allowed else min(allowed)
    if model.is_parameter(path):
        return experts.shapes(model.slots[path], site, rank, swapped=model.is_swapped(path, found))
    return tensors.shapes(site, rank, dora=bool(values.get("use_dora")), bias=bool(values.get("lora_bias")))


def _odd(values, others: Mapping[str, np.ndarray], places: Mapping[str, Place], adapters) -> list[str]:
    """One phrase for each tensor that this model has no place for, that nothing announces, or that has another shape."""
    lines = [f"unexpected {key}" for key in sorted(others) if key not in places]
    for key, tensor in sorted(others.items()):
        if key not in places:
            continue
        if not _is_announced(values, key, places[key], adapters) and not _is_vocabulary(key, tensor, others, places):
            bias = values.get("bias") or "none"
            lines.append(f"unexpected {key}, of the base, which neither modules_to_save nor bias={bias!r} announces")
        elif tensor.shape != places[key].shape:
            lines.append(f"{key} is {list(tensor.shape)}, expected {list(places[key].shape)}")
    return lines


def _is_announced(values, key: str, place: Place, adapters) -> bool:
    """Whether the config says that the file has this parameter of the base."""
    heads = (*(values.get("modules_to_save") or ()), *adapter_config.heads_of_task(values))
    if _is_in(place.module, heads) or _is_promised_bias(values, key, place, adapters):
        return True
    if values.get("bias") == "all" and "bias" in key:  # PEFT's own rule: T5's relative_attention_bias.weight too
        return True
    return _is_table(place) or (key.endswith("weight") and place.module in adapters and place.module.endswith(OUTPUT))


def _is_table(place: Place) -> bool:
    return place.path.rpartition("/")[2] == "embedding"


def _is_vocabulary(key: str, tensor: np.ndarray, others: Mapping[str, np.ndarray], places: Mapping[str, Place]) -> bool:
    """Whether it belongs to an output layer of the size of a table in the file: PEFT saves both (`save_embedding_layers`) and says so nowhere."""
    sizes = {other.shape[0] for own, other in others.items() if own in places and _is_table(places[own]) and other.ndim}
    return key.rpartition(".")[2] in ("weight", "bias") and tensor.ndim > 0 and tensor.shape[0] in sizes


def _is_in(module: str, heads: tuple[str, ...]) -> bool:
    """Whether a module is one of these heads or in one: PEFT goes by the last letters of names, of containers too."""
    parts = module.split(".")
    return bool(heads) and any(".".join(parts[:n]).endswith(heads) for n in range(1, len(parts) + 1))


def _is_promised_bias(values, key: str, place: Place, adapters) -> bool:
    bias = values.get("bias")
    return key.endswith("bias") and (bias == "all" or (bias == "lora_only" and place.module in adapters))


def _missing(values, others, places: Mapping[str, Place], adapters) -> list[str]:
    """What is promised, or begun, and not there: whole modules, biases, layers of a stack.

    modules_to_save may name modules that no model has ("score").
    """
    saved, bias = tuple(values.get("modules_to_save") or ()), values.get("bias", "none")
    begun = {places[key].path for key in others if key in places}
    heads = _begun_heads(values, others, places, adapters)
    lines = []
    for key, place in sorted(places.items()):
        if key in others:
            continue
        if _is_in(place.module, saved):
            lines.append(f"missing {key}, which modules_to_save names")
        elif _is_in(place.module, heads):
            lines.append(
                f"missing {key}, of a head that task_type={values['task_type']!r} trains and that is there in part"
            )
        elif _is_promised_bias(values, key, place, adapters):
            lines.append(f"missing {key}, which bias={bias!r} promises")
        elif place.path in begun:
            lines.append(f"missing {key}, a layer of a stack of which others are there")
    return lines


def _begun_heads(values, others, places: Mapping[str, Place], adapters) -> tuple[str, ...]:
    """The heads of the task that the file has a part of; one that was not trained need not be there."""
    own = [
        places[key].module
        for key in others
        if key in places and not _is_promised_bias(values, key, places[key], adapters)
    ]
    return tuple(
        head for head in adapter_config.heads_of_task(values) if any(_is_in(module, (head,)) for module in own)
    )
