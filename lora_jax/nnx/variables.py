"""The kinds of variables that an adapter's leaves are in an NNX model."""

from flax import nnx


class LoRAParam(nnx.LoRAParam):
    """What trains of an adapter: `nnx.DiffState(0, LoRAParam)` differentiates it alone, and so do trainers that ask for `nnx.LoRAParam`."""


class LoRASetting(nnx.Variable):
    """What does not: scales, cached norms, where PiSSA's factors began."""
