"""Roles that a config tells, in place of those that were found (`LoRAConfig.roles`)."""

import dataclasses
from collections.abc import Mapping

from lora_jax import targets
from lora_jax.config import LoRAConfig
from lora_jax.errors import TargetError, closest
from lora_jax.products.find import Site
from lora_jax.products.targeting import names_of

MAY_BE_TOLD = {"i": "is", "o": "os", "s": "s"}  # what was found -> what it may be


def with_roles(config: LoRAConfig, sites: Mapping[str, Site]) -> dict[str, Site]:
    """The sites that are adapted, those that a pattern of `config.roles` selects with its roles.

    Raises:
      TargetError: for roles that are not possible at a kernel, and for a pattern that selects none of these sites.

    >>> from lora_jax.products.find import Site
    >>> config = LoRAConfig(rank=2, roles={"up": "sio"})
    >>> with_roles(config, {"up": Site((3, 4, 5), "float32", "oio")})["up"].roles
    'sio'
    """
    for pattern, _ in config.roles:
        if not any(targets.matches(pattern, name) for path in sites for name in names_of(path)):
            raise TargetError(
                f"roles: {pattern!r} matches no kernel that is adapted; closest: {closest(pattern, sites)}."
            )
    return {path: _told(config, path, site) for path, site in sites.items()}


def _told(config: LoRAConfig, path: str, site: Site) -> Site:
    named = (targets.most_specific(config.roles, name, None) for name in names_of(path))
    told = next((roles for roles in named if roles is not None), None)
    if told is None or told == site.roles:
        return site
    _require_possible(config, path, site, told)
    return dataclasses.replace(site, roles=told)


def _require_possible(config: LoRAConfig, path: str, site: Site, told: str) -> None:
    where = f"roles: {path} {site.shape} has the roles {site.roles!r} and cannot have {told!r}"
    if len(told) != len(site.shape):
        raise TargetError(f"{where}: it has {len(site.shape)} axes, so give it {len(site.shape)} letters.")
    pairs = zip(site.shape, site.roles, told, strict=True)
    wrong = [k for k, (size, found, new) in enumerate(pairs) if size > 1 and new not in MAY_BE_TOLD[found]]
    if wrong:
        found = site.roles[wrong[0]]
        raise TargetError(
            f"{where}: axis {wrong[0]} is {found!r} in its product and can be {' or '.join(map(repr, MAY_BE_TOLD[found]))}."
        )
    if site.uses and site.uses[0].operation == "conv_general_dilated":
        raise TargetError(f"{where}: a convolution has one pair of factors; leave it out of `roles`.")
    if config.dora and any(found == "i" and new == "s" for found, new in zip(site.roles, told, strict=True)):
        raise TargetError(
            f"{where} with dora=True: a magnitude has no index that its product sums over; leave those axes 'i'."
        )
