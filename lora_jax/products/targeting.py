"""Which leaves a config selects: its patterns speak of leaves, or of the modules they are in."""

from collections.abc import Mapping

from lora_jax import targets
from lora_jax.config import LoRAConfig
from lora_jax.errors import TargetError, closest
from lora_jax.products.find import Site


def names_of(path: str) -> tuple[str, str]:
    """What a pattern may call a leaf: its own path, and that of its module.

    >>> names_of("layer/query/w")
    ('layer/query/w', 'layer/query')
    """
    return path, path.rpartition("/")[0]


def is_linear(site: Site) -> bool:
    """Whether "all-linear" speaks of the leaf: a product eats it, which is no lookup and no convolution."""
    return site.is_adaptable and site.uses[0].operation not in ("gather", "conv_general_dilated")


def chosen(config: LoRAConfig, sites: Mapping[str, Site]) -> list[str]:
    """The paths of the leaves that are adapted.

    Raises:
      TargetError: where a pattern selects no leaf that a product eats, or nothing is left.
    """
    able = {path: site for path, site in sites.items() if site.is_adaptable}
    for field in ("targets", "excludes"):
        for pattern in getattr(config, field):
            if not any(selects(pattern, path, site) for path, site in able.items()):
                raise TargetError(
                    f"{field}: {pattern!r} matches no leaf that a product eats; {_hint(pattern, able, sites)}."
                )
    found = [
        path
        for path, site in able.items()
        if any(selects(pattern, path, site) for pattern in config.targets)
        and not any(selects(pattern, path, site) for pattern in config.excludes)
    ]
    if not found:
        raise TargetError(
            f"excludes={list(config.excludes)} leaves nothing of targets={list(config.targets)} to adapt."
        )
    return found


def selects(pattern: str, path: str, site: Site) -> bool:
    """Whether a pattern speaks of the leaf, or of its module."""
    if pattern == targets.ALL_LINEAR:
        return is_linear(site)
    return any(targets.matches(pattern, name) for name in names_of(path) if name)


def _hint(pattern: str, able: Mapping[str, Site], sites: Mapping[str, Site]) -> str:
    missed = [
        path for path in sites if path not in able and any(targets.matches(pattern, name) for name in names_of(path))
    ]
    if not missed:
        return f"closest: {closest(pattern, able)}"
    site = sites[missed[0]]
    if site.dense:
        return f"{missed[0]} reaches {site.dense[0]}, which has no rule"
    return f"{missed[0]} is multiplied with nothing (an input that runs it, or another function, may do so)"
