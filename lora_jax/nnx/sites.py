"""The layers of an NNX model that LoRA could adapt, and what their kernels are."""

import contextlib
from collections.abc import Iterator

import numpy as np
from flax import nnx

from lora_jax import contraction, targets
from lora_jax.config import LoRAConfig
from lora_jax.errors import TargetError
from lora_jax.layout import Site, torch_has_such_a_convolution

KINDS = (nnx.Linear, nnx.LinearGeneral, nnx.Einsum, nnx.Conv, nnx.Embed)


def layers(model: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    """(path, layer) of every layer that LoRA could adapt; the path is that of its parameters in the tree."""
    for path, module in nnx.iter_modules(model):
        if isinstance(module, KINDS):
            yield "/".join(map(str, path)), module


def is_linear(module: nnx.Module) -> bool:
    """Whether "all-linear" speaks of the layer."""
    return not isinstance(module, (nnx.Conv, nnx.Embed))


def layout(model: nnx.Module, config: LoRAConfig) -> dict[str, Site]:
    """What the kernels are, by path; a layer that LoRA cannot adapt is left out.

    Raises:
      TargetError: where the config selects such a layer.
    """
    found = {}
    for path, module in layers(model):
        try:
            found[path] = site(path, module)
        except TargetError:
            if targets.is_target(config, path, is_linear=is_linear(module)):
                raise
    return found


def site(path: str, module: nnx.Module) -> Site:
    """What the layer's kernel is.

    Raises:
      TargetError: for an Einsum whose equation is no 'x,kernel->out' or comes when it is called, or a convolution with a mask.
    """
    if isinstance(module, nnx.Embed):
        shape = (module.num_embeddings, module.features)
        return Site("Embed", "embedding", shape, 1, (0,), False, ())  # its methods: see LoRA.layout_of
    if isinstance(module, nnx.Conv):
        return _conv(path, module)
    if isinstance(module, nnx.Einsum):
        labels = _labels(path, module)
        return Site(
            "Einsum", "kernel", tuple(module.kernel_shape), labels.split, labels.summed, True, ("__call__",), True
        )
    if isinstance(module, nnx.LinearGeneral):
        shape = (*module.batch_axis.values(), *module.in_features, *module.out_features)
        batch = len(module.batch_axis)
        at = batch + len(module.in_features)
        return Site("DenseGeneral", "kernel", tuple(shape), at, tuple(range(batch, at)), True, ("__call__",))
    return Site("Dense", "kernel", (module.in_features, module.out_features), 1, (0,), True, ("__call__",))


def random_side(path: str, module: nnx.Module) -> str:
    """The factor on the input side of the layer, which is drawn at random."""
    if isinstance(module, nnx.Embed) or (isinstance(module, nnx.Einsum) and _labels(path, module).is_transposed):
        return "b"
    return "a"


def kernel_of(module: nnx.Module) -> nnx.Variable:
    """The adapted parameter of a layer."""
    return module.embedding if isinstance(module, nnx.Embed) else module.kernel


def _conv(path: str, module: nnx.Conv) -> Site:
    if module.mask is not None:
        raise TargetError(
            f"LoRA cannot adapt {path or 'the root'}, an nnx.Conv with a mask: the mask would apply to merged weights and not to the "
            "side path; exclude the layer."
        )
    shape = tuple(module.kernel_shape)
    inputs = tuple(range(len(shape) - 1))
    return Site(
        "Conv", "kernel", shape, len(shape) - 1, inputs, False, ("__call__",), torch_has_such_a_convolution(module)
    )


def _labels(path: str, module: nnx.Einsum) -> contraction.Labels:
    if module.einsum_str is None:
        raise TargetError(
            f"LoRA cannot adapt {path or 'the root'}, an nnx.Einsum without an equation of its own; exclude the layer."
        )
    x = module.einsum_str.partition(",")[0]
    return contraction.of_einsum(module.einsum_str, len(x.replace("...", "")) + 2 * ("..." in x))


def stack_of(module: nnx.Module, found: Site) -> tuple[int, ...]:
    """The leading axes of a layer that nnx.vmap made many of."""
    shape = np.shape(kernel_of(module)[...])
    return tuple(shape[: len(shape) - len(found.kernel)])


@contextlib.contextmanager
def noting_attend(tied: set[tuple[int, int]]):
    """While it is entered, `nnx.Embed.attend` adds the sizes of its embedding to `tied`; transformed models are traced as copies."""
    attend = nnx.Embed.attend

    def noted(self, *args, **kwargs):
        tied.add((self.num_embeddings, self.features))
        return attend(self, *args, **kwargs)

    nnx.Embed.attend = noted
    try:
        yield
    finally:
        nnx.Embed.attend = attend
