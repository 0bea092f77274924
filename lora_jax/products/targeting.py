"""Which leaves a config selects: its patterns speak of leaves, or of the modules they are in."""

from collections.abc import Mapping

from lora_jax import targets
from lora_jax.config import LoRAConfig
from lora_jax.errors import TargetError, closest
from lora_jax.products.site import Site

OUTPUT_LAYERS = "output-layers"


def chosen(config: LoRAConfig, sites: Mapping[str, Site]) -> dict[str, Site]:
    """The leaves that are adapted, of all that `find` gives.

    Raises:
      TargetError: where a pattern selects no leaf that a product eats, or nothing is left.
    """
    able = {path: site for path, site in sites.items() if site.is_adaptable}
    for field, patterns in (("targets", config.targets), ("excludes", config.excludes)):
        for pattern in patterns:
            targets.require_one_reading(field, pattern, [name for site in sites.values() for name in site.names])
    _require_all("targets", config.targets, able, sites)
    _require_all("excludes", config.excludes, sites, sites)
    found = {path: site for path, site in able.items() if is_chosen(config, site)}
    if not found:
        raise TargetError(
            f"excludes={list(config.excludes)} leaves nothing of targets={list(config.targets)} to adapt."
        )
    for field in ("rank_pattern", "alpha_pattern"):
        _require_all(field, [pattern for pattern, _ in getattr(config, field)], found, sites)
    return found


def is_chosen(config: LoRAConfig, site: Site) -> bool:
    """Whether the config selects this leaf."""
    wanted = any(selects(pattern, site) for pattern in config.targets)
    return wanted and not any(selects(pattern, site) for pattern in config.excludes)


def selects(pattern: str, site: Site) -> bool:
    """Whether a pattern speaks of the leaf, or of its module.

    >>> site = Site("block/query/kernel", (3, 4), float, "io")
    >>> selects("query", site), selects("block/*/kernel", site), selects("value", site), selects("all-linear", site)
    (True, True, False, True)
    """
    if pattern == targets.ALL_LINEAR:
        return site.is_linear
    if pattern == OUTPUT_LAYERS:
        return site.is_output
    return targets.matches(pattern, *site.names)


def _require_all(field: str, patterns, able: Mapping[str, Site], sites: Mapping[str, Site]) -> None:
    """Raises TargetError where a pattern selects none of these."""
    found = {pattern: sum(selects(pattern, site) for site in able.values()) for pattern in patterns}
    idle = [pattern for pattern, count in found.items() if count == 0]
    if not idle:
        return
    others = ", ".join(f"{pattern!r} matches {count}" for pattern, count in found.items() if count)
    hints = "; ".join(_hint(pattern, able, sites) for pattern in idle)
    raise TargetError(
        f"{field}: {', '.join(map(repr, idle))} matches no layer that LoRA can adapt here"
        f"{f' ({others})' if others else ''}; {hints}."
    )


def _hint(pattern: str, able: Mapping[str, Site], sites: Mapping[str, Site]) -> str:
    missed = [site for site in sites.values() if not site.is_adaptable and selects(pattern, site)]
    if missed:
        return f"of {missed[0].path}: {missed[0].reason} (another input or method may run it)"
    return f"closest to {pattern!r}: {closest(pattern, {site.name for site in able.values()})}"
