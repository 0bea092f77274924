"""What a config asks for of an NNX model, as far as that is known before the model runs."""

import dataclasses
from collections.abc import Iterable, Mapping

from flax import nnx

from lora_jax import targets
from lora_jax.config import LoRAConfig
from lora_jax.errors import TargetError
from lora_jax.nnx import sites
from lora_jax.products.site import Site
from lora_jax.products.targeting import OUTPUT_LAYERS, chosen, part_of_stack, selects


def require_matches(
    config: LoRAConfig, model: nnx.Module, known: Mapping[str, Site], others: Mapping[str, Site]
) -> None:
    """Raises TargetError where a pattern can speak of nothing in the model."""
    _require_own_names(config, model, {**known, **others})
    excludes = tuple(pattern for pattern in config.excludes if pattern != OUTPUT_LAYERS)
    at_most = [dataclasses.replace(site, roles="i" * (len(site.shape) - 1) + "o") for site in others.values()]
    able = [dataclasses.replace(site, is_output=True) for site in (*known.values(), *at_most)]
    chosen(dataclasses.replace(config, excludes=excludes), {site.path: site for site in able})


def require_known(config: LoRAConfig, others: Iterable[Site]) -> None:
    """Raises TargetError where only a run of the model tells whether a pattern speaks of a parameter."""
    if OUTPUT_LAYERS in (*config.targets, *config.excludes):
        raise TargetError(f"{OUTPUT_LAYERS!r}: only a run of the model tells which they are; {_EXAMPLE}.")
    for site in others:
        asks = [p for p in config.targets if p == targets.ALL_LINEAR or selects(p, site)]
        if asks and not any(selects(pattern, site) for pattern in config.excludes):
            raise TargetError(
                f"targets: {asks[0]!r} may select {site.path}, and only a run of the model tells what multiplies it; {_EXAMPLE}, or exclude it."
            )


_EXAMPLE = "give an example input too, init(key, x) or lora_jax.adapt(key, base_params, model, x)"


def _require_own_names(config: LoRAConfig, model: nnx.Module, found: Mapping[str, Site]) -> None:
    """Raises TargetError for a pattern that names a layer which another stands for: one that shares its kernel, or a part of a stack."""
    named = (targets.ALL_LINEAR, OUTPUT_LAYERS)
    for pattern in (*config.targets, *config.excludes):
        if pattern in named or any(selects(pattern, site) for site in found.values()):
            continue
        for path, kernel in sites.shared(model).items():
            if targets.matches(pattern, path):
                raise TargetError(f"{pattern!r}: {path} shares its kernel, which NNX keeps as {kernel}; name that.")
        hint = part_of_stack(pattern, found.values())
        if hint:
            raise TargetError(f"{pattern!r}: {hint}.")
