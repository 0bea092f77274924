"""A folder of PEFT folders as a bank."""

import os
from collections.abc import Mapping

import flax.linen as nn
from etils import epath

from lora_jax.bank.names import Slots
from lora_jax.bank.stacking import stack
from lora_jax.errors import LoRAError, PeftError
from lora_jax.files import require_path
from lora_jax.peft import load as load_one
from lora_jax.peft.adapter_config import NAME as CONFIG
from lora_jax.peft.names import Names
from lora_jax.products.site import Site
from lora_jax.tree import Params


def load(
    folder: str | os.PathLike,
    base_params: Params,
    layout: Mapping[str, Site] | nn.Module,
    *,
    capacity: int | None = None,
    rank: int | None = None,
    names_of: Names | None = None,
) -> tuple[dict, Slots]:
    """`(bank, slots)` of all adapters in a folder, a PEFT folder each, named as their folders are, in the order of their names.

    Args:
      base_params, names_of: as for `lora_jax.peft.load`.
      layout: as `model` there.
      capacity, rank: as for `bank.stack`.

    Raises:
      PeftError: where there is none, or one of them cannot be read; it names the folder.
      TreeError: where they do not go together in one bank.

    >>> import tempfile, flax.linen as nn, jax, jax.numpy as jnp, lora_jax
    >>> base, x = nn.Dense(4, name="head"), jnp.ones((1, 3))
    >>> model = lora_jax.LoRA(base, lora_jax.LoRAConfig(rank=2, alpha=4, targets="*"))
    >>> params, layout = {"head": model.init(jax.random.key(0), x)["params"]}, {"head": lora_jax.layout(base, x)[""]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("french", "german"):
    ...         lora_jax.peft.save(f"{folder}/{name}", params, model.config, layout, mask=None)
    ...     bank, slots = load(folder, lora_jax.strip(params), layout, capacity=8)
    >>> slots, bank["head"]["lora_a"].shape
    (Slots(french: 0, german: 1; 6 free), (9, 3, 2))
    """
    folder = epath.Path(require_path(folder, PeftError))
    if not folder.is_dir():
        raise PeftError(f"{folder} is no folder; give the one that holds the PEFT folders.")
    if (folder / CONFIG).exists():
        raise PeftError(
            f"{folder} is one adapter's own folder; give the one above it, or read it by lora_jax.peft.load."
        )
    inside = sorted(
        (each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")),
        key=lambda each: each.name,
    )
    if not inside:
        raise PeftError(f"{folder} has no folders in it; a bank is read from a folder of PEFT folders.")
    adapters = {each.name: _read(each, base_params, layout, names_of) for each in inside}
    bank = stack(base_params, adapters, capacity=capacity, rank=rank)
    return bank, Slots(adapters, capacity=capacity)


def _read(
    folder: epath.Path, base_params: Params, layout: Mapping[str, Site] | nn.Module, names_of: Names | None
) -> dict:
    if not (folder / CONFIG).exists():
        raise PeftError(f"{folder} has no {CONFIG}, so it is no adapter; move it out of the folder of adapters.")
    try:
        return load_one(folder, base_params, layout, names_of=names_of).params
    except LoRAError as error:
        message = str(error)
        raise PeftError(message if str(folder) in message else f"{folder}: {message}") from error
