"""What `load` and `save` are told of the model: its layout, or a model that knows its own layers and what torch calls them."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from lora_jax.errors import PeftError
from lora_jax.layout import layout
from lora_jax.module import LoRA
from lora_jax.peft import names
from lora_jax.peft.names import Names, dotted
from lora_jax.products.site import Site, require_sites


def described(model: Any, names_of: Names | None, where: str) -> tuple[Mapping[str, Site], Names]:
    """(layout, names in torch).

    Args:
      model: a layout; or a linen model, also within `lora_jax.LoRA`, that has the methods `example()`, arguments of a call, and
        `torch_module(path)`, as those of `lora_jax.models` do.
      names_of: goes before the model's own names.

    Raises:
      PeftError: for a model without these methods. ConfigError: for what is neither.
    """
    if not isinstance(model, nn.Module):
        require_sites(model, where)
        return model, names.checked(names_of or dotted)
    base = model.base_module if isinstance(model, LoRA) else model
    missing = [name for name in ("example", "torch_module") if not callable(getattr(base, name, None))]
    if missing:
        raise PeftError(
            f"{where}: {type(base).__name__} has no method {' and no method '.join(missing)}, which would tell an input of it and what torch "
            "calls its modules; pass lora_jax.layout(base_module, x) in its place, and names_of=."
        )
    return layout(base, *base.example()), names.checked(names_of or base.torch_module)
