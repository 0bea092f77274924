"""Roles that a config tells, in place of those that were found (`LoRAConfig.roles`)."""

import dataclasses
from collections.abc import Mapping

from lora_jax import targets
from lora_jax.config import LoRAConfig
from lora_jax.errors import TargetError, closest
from lora_jax.products.site import Site

MAY_BE_TOLD = {"i": "is", "o": "os", "s": "s", "?": "ios"}  # what was found -> what it may be


def with_roles(config: LoRAConfig, sites: Mapping[str, Site]) -> dict[str, Site]:
    """The sites, those that a pattern of `config.roles` selects with its roles; what has no rule may form W + delta of these.

    Raises:
      TargetError: for roles that are not possible at a kernel, and for a pattern that selects none.

    >>> config = LoRAConfig(rank=2, roles={"up": "sio"})
    >>> with_roles(config, {"up": Site("up", (3, 4, 5), "float32", "oio")})["up"].roles
    'sio'
    """
    for pattern, _ in config.roles:
        if not any(targets.matches(pattern, *site.names) for site in sites.values()):
            raise TargetError(
                f"roles: {pattern!r} matches no kernel that is adapted; closest: {closest(pattern, sites)}."
            )
    return {path: _told(config, path, site) for path, site in sites.items()}


def _told(config: LoRAConfig, path: str, site: Site) -> Site:
    told = targets.most_specific(config.roles, site.names, None)
    if told is None:
        return site
    _require_possible(config, path, site, told)
    return dataclasses.replace(site, roles=told, may_form=True)


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
    if site.is_convolution and told != site.roles:
        raise TargetError(f"{where}: a convolution has one pair of factors; leave it out of `roles`.")
    if config.dora and any(found == "i" and new == "s" for found, new in zip(site.roles, told, strict=True)):
        raise TargetError(
            f"{where} with dora=True: a magnitude has no index that its product sums over; leave those axes 'i'."
        )
