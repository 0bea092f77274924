"""Functions with a derivative of their own that an adapted weight goes into: told once, when the adapters are made."""

import warnings
from collections.abc import Mapping

from lora_jax.errors import CustomDerivativeWarning
from lora_jax.keys import plain
from lora_jax.products.site import Site

SHOWN = 3


def warn_of_custom(sites: Mapping[str, Site]) -> None:
    """One warning for all places where a product with one of these leaves is inside of such a function.

    >>> warn_of_custom({"w": Site("w", (2, 3), float, "io")})
    """
    places = dict.fromkeys(
        f"{path} goes into {use.function}, called in {use.module or 'the model'}"
        + (f" ({use.line})" if use.line else "")
        for path, site in sites.items()
        for use in site.custom
    )
    if not places:
        return
    shown = "; ".join(list(places)[:SHOWN]) + (f"; and {len(places) - SHOWN} more" if len(places) > SHOWN else "")
    text = (
        f"{plain(shown)}: a function with a derivative of its own. Its own rule holds for the base; the update gets the true derivative. "
        "Exclude the leaf where the rule is meant to hold for the update too."
    )
    warnings.warn(text, CustomDerivativeWarning, stacklevel=2)
