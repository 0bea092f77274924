"""The layers of Flax whose kernels are known without a run of the model; every other kernel is found by following it (`lora_jax.products`)."""

from collections.abc import Iterator

import numpy as np
from flax import nnx

from lora_jax.layout import has_odd_padding
from lora_jax.nnx.trees import named
from lora_jax.products.find import is_matrix
from lora_jax.products.replay import Use
from lora_jax.products.site import CONVOLUTION, LOOKUP, Site
from lora_jax.tree import opened

KINDS = (nnx.Linear, nnx.LinearGeneral, nnx.Einsum, nnx.Conv, nnx.Embed)
NO_KERNEL = (nnx.BatchNorm, nnx.LayerNorm, nnx.RMSNorm, nnx.GroupNorm, nnx.InstanceNorm)


def known(model: nnx.Module) -> dict[str, Site]:
    """The kernels of known layers by path, as `find` would give them: their uses are told as far as the class tells them."""
    found: dict[str, Site] = {}
    for layer, _, path in _kernels(model):
        if _roles(layer):
            found.setdefault(path, _site(path, layer))
    return found


def unknown(model: nnx.Module) -> dict[str, Site]:
    """The matrices of which only a run tells whether a product reads them: all that are not of a known layer, and not of a normalisation."""
    layers = {path: module for path, module in nnx.iter_modules(model) if _is_known(module)}
    leaves = {path: opened(leaf.get_raw_value()) for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    names = {named(path): path for path, leaf in leaves.items() if is_matrix(leaf)}
    own = set(known(model))
    return {
        name: Site(name, tuple(leaves[path].shape), leaves[path].dtype, "?" * leaves[path].ndim)
        for name, path in names.items()
        if path[:-1] not in layers and name not in own
    }


def shared(model: nnx.Module) -> dict[str, str]:
    """path of a layer whose kernel NNX keeps elsewhere -> path of that kernel in the tree."""
    return {path: kernel for _, path, kernel in _kernels(model) if kernel.rpartition("/")[0] != path}


def modules(model: nnx.Module) -> dict[str, nnx.Module]:
    """The modules by path."""
    return {named(path): module for path, module in nnx.iter_modules(model)}


def _is_known(module: nnx.Module) -> bool:
    return isinstance(module, NO_KERNEL) or (isinstance(module, KINDS) and bool(_roles(module)))


def _kernels(model: nnx.Module) -> Iterator[tuple[nnx.Module, str, str]]:
    """(layer, its path, the path of its kernel in the tree) of layers of the known classes."""
    places = {id(value): named(path) for path, value in nnx.iter_graph(model)}
    for path, module in modules(model).items():
        if isinstance(module, KINDS):
            yield module, path, places[id(_kernel_of(module))]


def _kernel_of(module: nnx.Module) -> nnx.Variable:
    return module.embedding if isinstance(module, nnx.Embed) else module.kernel


def _site(path: str, module: nnx.Module) -> Site:
    kernel, roles = opened(_kernel_of(module).get_raw_value()), _roles(module)
    roles = "s" * (len(kernel.shape) - len(roles)) + roles  # nnx.vmap made many of it
    site = Site(
        path,
        tuple(kernel.shape),
        kernel.dtype,
        roles,
        kind=type(module).__name__,
        is_padded_oddly=has_odd_padding(module),
    )
    if isinstance(module, nnx.Conv) and module.mask is not None:
        # The update would be masked like the kernel, which no side path is.
        site.roles, site.dense = "?" * len(roles), [Use("mul", path.rpartition("/")[0])]
    elif isinstance(module, nnx.Conv):
        site.uses.append(Use(CONVOLUTION, roles=roles, is_plain=_is_plain(module)))
    else:
        site.uses.append(Use(LOOKUP if isinstance(module, nnx.Embed) else "dot_general", roles=roles))
    return site


def _is_plain(module: nnx.Conv) -> bool:
    dilations = [*np.ravel(module.input_dilation or 1), *np.ravel(module.kernel_dilation or 1)]
    return module.feature_group_count == 1 and all(step == 1 for step in dilations)


def _roles(module: nnx.Module) -> str:
    """The roles of the axes of a layer's kernel; "" for an Einsum whose equation comes when it is called."""
    if isinstance(module, nnx.Conv):
        return "i" * (len(module.kernel_shape) - 1) + "o"
    if isinstance(module, nnx.LinearGeneral):
        return "s" * len(module.batch_axis) + "i" * len(module.in_features) + "o" * len(module.out_features)
    if isinstance(module, nnx.Einsum):
        operands, _, out = (module.einsum_str or "").replace(" ", "").partition("->")
        x, _, kernel = operands.partition(",")
        roles = "".join("i" if letter not in out else "s" if letter in x else "o" for letter in kernel)
        return roles if len(roles) == len(module.kernel_shape) else ""
    return "io"
