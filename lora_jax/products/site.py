"""What becomes of one leaf of a parameter tree: the roles of its axes, and every use."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from lora_jax import axes
from lora_jax.errors import ConfigError
from lora_jax.products import places
from lora_jax.products.replay import Use


def require_sites(layout: Any, where: str) -> None:
    """Raises ConfigError where something else is given than a layout, a mapping from places to sites.

    >>> require_sites({"head": Site("head/kernel", (2, 3), float, "io")}, "report")
    """
    if not isinstance(layout, Mapping) or not all(isinstance(site, Site) for site in layout.values()):
        raise ConfigError(
            f"{where}: the layout is a {type(layout).__name__} without sites; give lora_jax.layout(base_module, x), or an NNX wrapper's layout_of(x)."
        )


LOOKUP, CONVOLUTION = "gather", "conv_general_dilated"


@dataclasses.dataclass
class Site:
    """One leaf.

    `roles` has a letter for each axis, as the first product has them: "i" summed over (or looked up), "o" free (or summed away before the
    product), "s" shared by input and output (a stack of layers, experts, a batch), "?" where no product was seen. `uses` are the products, `dense`
    the operations that have no rule, `vectors` those that have none and find no more than a vector of it (a bias, a norm's scale, of a stack),
    `stopped` the places where its gradient is stopped, behind which no product counts, `custom` those of the uses that are inside of a function
    with a derivative of its own. `kind` is the class of the module that holds it, where that is known.

    >>> Site("q/w", (2, 3, 4), float, "oio").place
    'q/w:oio'
    """

    path: str
    shape: tuple[int, ...]
    dtype: Any
    roles: str
    uses: list[Use] = dataclasses.field(default_factory=list)
    dense: list[Use] = dataclasses.field(default_factory=list)
    vectors: list[Use] = dataclasses.field(default_factory=list)
    custom: list[Use] = dataclasses.field(default_factory=list)
    stopped: list[Use] = dataclasses.field(default_factory=list)
    kind: str = ""
    is_output: bool = False  # an output of the model is this product's, and that of no other leaf
    may_form: bool = False  # W + delta may be formed before what has no rule: a config tells its roles
    is_padded_oddly: bool = False  # a convolution whose module pads around, by reflection or by cause

    @property
    def is_adaptable(self) -> bool:
        """Whether products read it, and nothing else does: it has axes that are summed over and axes that are free."""
        return "i" in self.roles and "o" in self.roles and (self.may_form or not self.dense)

    @property
    def is_lookup(self) -> bool:
        """Whether rows of it are looked up, and nothing else is done with it first."""
        return bool(self.uses) and self.uses[0].operation == LOOKUP

    @property
    def is_convolution(self) -> bool:
        return bool(self.uses) and self.uses[0].operation == CONVOLUTION

    @property
    def is_linear(self) -> bool:
        """Whether "all-linear" speaks of it: a product reads it, which is no lookup and no convolution."""
        return self.is_adaptable and not self.is_lookup and not self.is_convolution

    @property
    def is_tied(self) -> bool:
        """Whether its uses differ: looked up and multiplied, or multiplied one way and the other."""
        return len({(use.operation, use.roles) for use in self.uses}) > 1

    @property
    def is_plain(self) -> bool:
        """Whether torch has such a layer: False for convolutions with groups, dilation or a padding that Conv2d does not have."""
        return all(use.is_plain for use in self.uses) and not self.is_padded_oddly

    @property
    def names(self) -> tuple[str, ...]:
        """What a pattern may call it: its own path, or that of its module.

        >>> Site("layer/query/w", (3, 4), float, "io").names
        ('layer/query/w', 'layer/query')
        """
        return self.path, self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        """What a pattern calls it that speaks of no other: its module's path where its adapter lies there, else its own."""
        return self.names[1] if self.is_beside else self.path

    @property
    def place(self) -> str:
        """Where its adapter lies: the module's path, or that of a dict beside the leaf."""
        return places.module_for(self.path, self.roles).rstrip("/")

    @property
    def leaf(self) -> str:
        """Its name in its module."""
        return self.path.rpartition("/")[2]

    @property
    def stack(self) -> tuple[int, ...]:
        return axes.sizes(self.shape, self.roles)["s"]

    @property
    def kernel(self) -> tuple[int, ...]:
        """Its shape without the axes of a stack."""
        return tuple(size for size, role in zip(self.shape, self.roles, strict=True) if role != "s")

    @property
    def inputs(self) -> tuple[int, ...]:
        """The axes of `kernel` that are summed over."""
        return tuple(axis for axis, role in enumerate(self.roles.replace("s", "")) if role == "i")

    @property
    def is_transposed(self) -> bool:
        """Outputs first, as torch has them; `a` is then on the outputs' side."""
        return self.is_beside and self.roles.replace("s", "").startswith("o")

    def at(self, place: str) -> "Site":
        """The same, of a model that is part of another: at the place `place`.

        >>> Site("kernel", (3, 4), float, "io").at("head").path
        'head/kernel'
        """
        return dataclasses.replace(self, path=places.kernel_at(place, self.leaf))

    @property
    def is_beside(self) -> bool:
        """Whether its adapter lies beside it, in its module's own dict."""
        return axes.roles_in(places.module_for(self.path, self.roles)) is None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def reason(self) -> str:
        """Why no adapter reaches it; "" where one can."""
        if self.is_adaptable:
            return ""
        if self.dense:
            return f"it reaches {self.dense[0]}, which has no rule"
        if self.uses:
            return f"{self.uses[0]} leaves it no axis to be {'summed over' if 'i' not in self.roles else 'free'}"
        return f"its gradient is stopped by {self.stopped[0]}" if self.stopped else "no product reads it"
