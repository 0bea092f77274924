"""What of a PEFT folder does not fit a model: one phrase for each tensor that is missing, unexpected or of another shape."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from lora_jax.peft import adapter_config, tensors
from lora_jax.peft.names import Slot
from lora_jax.peft.places import Place


def misfits(values, found, adapters, others, slots, places, layout) -> list[str]:
    """All of them: `found` are the tensors by key, `adapters` and `others` the same by what they belong to."""
    return [
        *adapter_config.idle(values, slots, adapters),
        *_unusable(found),
        *_untargeted(values, adapters, slots, layout),
        *_problems(values, adapters, slots, layout),
        *_odd(values, others, places, adapters),
        *_missing(values, others, places, adapters),
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


def _untargeted(values, adapters, slots: Mapping[str, Slot], layout) -> list[str]:
    """One phrase for each adapter that target_modules names and the file lacks, or the other way round."""
    sites = {path: layout[slot.module] for path, slot in slots.items()}
    named = adapter_config.targeted(values, {path: site.is_linear for path, site in sites.items()})
    missing, unnamed = named - adapters.keys(), (adapters.keys() & slots.keys()) - named
    if adapter_config.is_all_linear(values) and len(missing) == 1:
        missing = set()  # PEFT leaves the output layer out; which one that is, only torch's class knows
    return [
        *(f"missing the adapter of {path}, which target_modules names" for path in sorted(missing)),
        *(f"unexpected adapter of {path}, which target_modules does not name" for path in sorted(unnamed)),
    ]


def _problems(values, adapters, slots: Mapping[str, Slot], layout) -> list[str]:
    """One phrase for each tensor of an adapter that is missing, unexpected or of another shape or rank."""
    lines = []
    for path, found in sorted(adapters.items()):
        if path not in slots:
            lines.append(f"unexpected {path}, which is no layer of this model")
            continue
        site = layout[slots[path].module]
        tensors.require_torch_layout(path, site)
        rank, allowed = tensors.rank_of(found) or 1, adapter_config.ranks(values, path)
        expected = tensors.shapes(
            site, rank if not allowed or rank in allowed else min(allowed), dora=bool(values.get("use_dora"))
        )
        lines += [f"missing {path}.{suffix}" for suffix in sorted(expected.keys() - found.keys())]
        lines += [f"unexpected {path}.{suffix}" for suffix in sorted(found.keys() - expected.keys())]
        lines += [
            f"{path}.{suffix} is {list(found[suffix].shape)}, expected {list(shape)}"
            for suffix, shape in expected.items()
            if suffix in found and found[suffix].shape != shape
        ]
    return lines if adapters else ["there is no adapter in it"]


def _odd(values, others: Mapping[str, np.ndarray], places: Mapping[str, Place], adapters) -> list[str]:
    """One phrase for each tensor that this model has no place for, that nothing announces, or that has another shape."""
    lines = [f"unexpected {key}" for key in sorted(others) if key not in places]
    for key, tensor in sorted(others.items()):
        if key not in places:
            continue
        if not _is_announced(values, key, places[key], adapters):
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
    return adapter_config.keeps_embeddings(values) and place.module.rpartition(".")[2] in adapter_config.EMBEDDINGS


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
