"""Mixed batches: every example of a batch through an adapter of its own, in one program.

A bank is a tree of adapters (and heads) stacked along a new first axis [N + 1]; its last slot is no adapter at all, so that the id -1,
which is the last slot in any indexing, means the base. An example's adapter is gathered by its id, and the model is mapped over the
examples: products with the shared base stay one product for the whole batch, whatever the layers are.

A server makes one with room (`capacity=`), puts adapters into its free slots and takes them out while it runs, and keeps names by `Slots`.
"""

from lora_jax.bank.applying import apply
from lora_jax.bank.folders import load
from lora_jax.bank.names import Slots
from lora_jax.bank.slots import put, remove
from lora_jax.bank.stacking import stack

__all__ = ["Slots", "apply", "load", "put", "remove", "stack"]
