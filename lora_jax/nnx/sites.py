"""The layers of an NNX model that LoRA could adapt, and what their kernels are."""

import contextlib
from collections.abc import Iterator

import numpy as np
from flax import nnx

from lora_jax import contraction, targets
from lora_jax.config import LoRAConfig
from lora_jax.errors import TargetError
from lora_jax.layout import has_odd_padding
from lora_jax.products.replay import Use
from lora_jax.products.site import Site

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
    """What the layer's kernel is, without an input; its uses are told as far as its class tells them.

    Raises:
      TargetError: for an Einsum whose equation is no 'x,kernel->out' or comes when it is called, or a convolution with a mask.
    """
    kernel = kernel_of(module)[...]
    roles, uses = (
        _roles(path, module),
        [Use("conv_general_dilated", is_plain=_is_plain(module))] if isinstance(module, nnx.Conv) else [],
    )
    roles = "s" * (kernel.ndim - len(roles)) + roles
    leaf = "embedding" if isinstance(module, nnx.Embed) else "kernel"
    return Site(
        f"{path}/{leaf}".lstrip("/"), tuple(kernel.shape), kernel.dtype, roles,
        uses=uses or ([] if isinstance(module, nnx.Embed) else [Use("dot_general", roles=roles)]),
        kind=type(module).__name__, is_padded_oddly=has_odd_padding(module),
    )  # fmt: skip


def _is_plain(module: nnx.Conv) -> bool:
    dilations = [*np.ravel(module.input_dilation or 1), *np.ravel(module.kernel_dilation or 1)]
    return module.feature_group_count == 1 and all(step == 1 for step in dilations)


def _roles(path: str, module: nnx.Module) -> str:
    if isinstance(module, nnx.Conv):
        if module.mask is not None:
            raise TargetError(
                f"LoRA cannot adapt {path or 'the root'}, an nnx.Conv with a mask: the mask would apply to merged weights and not to the "
                "side path; exclude the layer."
            )
        return "i" * (len(module.kernel_shape) - 1) + "o"
    if isinstance(module, nnx.Einsum):
        labels = _labels(path, module)
        return "".join("i" if axis in labels.summed else "o" for axis in range(len(module.kernel_shape)))
    if isinstance(module, nnx.LinearGeneral):
        return "s" * len(module.batch_axis) + "i" * len(module.in_features) + "o" * len(module.out_features)
    return "io"


def random_side(path: str, module: nnx.Module) -> str:
    """The factor on the input side of the layer, which is drawn at random."""
    if isinstance(module, nnx.Embed) or (isinstance(module, nnx.Einsum) and _labels(path, module).is_transposed):
        return "b"
    return "a"


def kernel_of(module: nnx.Module) -> nnx.Variable:
    """The adapted parameter of a layer."""
    return module.embedding if isinstance(module, nnx.Embed) else module.kernel


def _labels(path: str, module: nnx.Einsum) -> contraction.Labels:
    if module.einsum_str is None:
        raise TargetError(
            f"LoRA cannot adapt {path or 'the root'}, an nnx.Einsum without an equation of its own; exclude the layer."
        )
    x = module.einsum_str.partition(",")[0]
    return contraction.of_einsum(module.einsum_str, len(x.replace("...", "")) + 2 * ("..." in x))


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
