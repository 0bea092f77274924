"""Which leaves a config selects: its patterns speak of leaves, or of the modules they are in."""

from collections.abc import Iterable, Mapping

from lora_jax import targets
from lora_jax.config import LoRAConfig
from lora_jax.errors import TargetError, closest
from lora_jax.products.site import Site
from lora_jax.targets import OUTPUT_LAYERS


def chosen(config: LoRAConfig, sites: Mapping[str, Site]) -> dict[str, Site]:
    """The leaves that are adapted, of all that `find` gives.

    Raises:
      TargetError: where a pattern selects no leaf that a product reads, or nothing is left.
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


def part_of_stack(pattern: str, sites: Iterable[Site]) -> str:
    """What to write instead where a pattern names one layer of a stack, by its number; "" where it does not.

    >>> part_of_stack("layers/0/up", [Site("layers/up/kernel", (3, 4, 5), float, "sio")])
    "layers/up/kernel is one array for a stack of 3 layers, which are adapted together; write 'layers/up'"
    """
    parts = pattern.split("/")
    for whole in ("/".join([*parts[:k], *parts[k + 1 :]]) for k, part in enumerate(parts) if part.isdecimal()):
        stack = next((site for site in sites if site.stack and whole and _is_within(whole, site)), None)
        if stack is not None:
            write = whole if selects(whole, stack) else f"{whole}/*"
            return f"{stack.path} is one array for a stack of {stack.stack[0]} layers, which are adapted together; write {write!r}"
    return ""


def _is_within(whole: str, site: Site) -> bool:
    return selects(whole, site) or selects(f"{whole}/*", site)


def _hint(pattern: str, able: Mapping[str, Site], sites: Mapping[str, Site]) -> str:
    stack = part_of_stack(pattern, able.values())
    if stack:
        return stack
    missed = [site for site in sites.values() if not site.is_adaptable and selects(pattern, site)]
    if missed:
        return f"of {missed[0].path}: {missed[0].reason} (another input or method may run it)"
    return f"closest to {pattern!r}: {closest(pattern, {site.name for site in able.values()})}"
