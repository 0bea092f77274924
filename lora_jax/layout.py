"""The layout of a model: every kernel that LoRA could adapt, with what becomes of it, and what it cannot reach."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from lora_jax.config import LoRAConfig
from lora_jax.errors import ConfigError, ModelError, closest
from lora_jax.intake import described, require_inputs, unfit
from lora_jax.module import LoRA, function_of
from lora_jax.of_function import FunctionLoRA
from lora_jax.products.find import find
from lora_jax.products.function import shapes_of
from lora_jax.products.roles import with_roles
from lora_jax.products.site import Site

ODD_PADDINGS = ("CIRCULAR", "CAUSAL", "REFLECT")  # of Flax; torch's convolution has others, or means otherwise by them


TRANSPOSED = (nn.ConvTranspose, nnx.ConvTranspose)


class Layout(dict[str, Site]):
    """Where an adapter would lie -> its kernel. `missed` are the matrices of the model that no product reads, by their own paths."""

    def __init__(self, sites: Mapping[str, Site], config: LoRAConfig | None = None):
        """`config` may tell roles in place of those that were found."""
        sites = sites if config is None else with_roles(config, sites)
        super().__init__({site.place: site for site in sites.values() if site.is_adaptable})
        self.missed = {path: site for path, site in sites.items() if _is_missed(site)}


def _is_missed(site: Site) -> bool:
    """A matrix, and no stack of biases or norms, nor a bias of several axes, as attention's is of heads."""
    is_stack_of_vectors = bool(site.vectors) and not site.dense
    is_vector = is_stack_of_vectors or (site.leaf == "bias" and not site.uses)
    return not site.is_adaptable and not is_vector and sum(size > 1 for size in site.shape) >= 2


def layout(base_module: Any, *args: Any, **kwargs: Any) -> Layout:
    """Every kernel of a flax.linen model, or of a function, that LoRA could adapt, by the place of its adapter; nothing is computed.

    Args:
      base_module: a linen module, a function `fn(params, *args)`, or `lora_jax.LoRA` of either, whose config may tell roles.
      *args, **kwargs: an example input, as for `base_module.init`; `method=` names another method than `__call__`. A function's first is its
        parameters, or their shapes.

    Raises:
      ConfigError: for a model of another API. ModelError: for the name of a method that the model does not have.

    >>> import jax.numpy as jnp
    >>> layout(nn.Embed(7, 4), jnp.ones((1, 3), int))[""].kernel
    (7, 4)
    """
    config = base_module.config if isinstance(base_module, (LoRA, FunctionLoRA)) else None
    base_module = base_module if config is None else base_module.base_module
    if not isinstance(base_module, nn.Module):
        return _of_function(base_module, config, args, kwargs)
    _require_method(base_module, kwargs.get("method"))
    call = kwargs.get("method") or "__call__"
    own = {name: value for name, value in kwargs.items() if name != "method"}
    require_inputs(
        getattr(type(base_module), call) if isinstance(call, str) else call, base_module, args, own, "layout"
    )
    key, owners = jax.random.key(0), {}
    with nn.intercept_methods(_noting(owners)):
        variables = jax.eval_shape(lambda key: base_module.init(key, *args, **kwargs), key)
    others = {name: collection for name, collection in variables.items() if name != "params"}
    params = shapes_of(variables.get("params", {}))
    sites = find(function_of(base_module), params, others, {"params": key}, *args, **kwargs)
    for site in sites.values():
        owner = owners.get(site.path.rpartition("/")[0])
        site.kind = type(owner).__name__ if owner is not None else ""
        site.is_padded_oddly = has_odd_padding(owner)
    return Layout(sites, config)


def _of_function(fn: Any, config: LoRAConfig | None, args: tuple, kwargs: dict[str, Any]) -> Layout:
    if not callable(fn) or isinstance(fn, nnx.Module) or not args:
        raise ConfigError(
            f"layout reads flax.linen modules and functions fn(params, *args), and this is {described(fn)}; an NNX "
            "model's layout is that of its wrapper, lora_jax.nnx.LoRA(model, config).layout_of(x)."
        )
    params, *inputs = args
    why = unfit(fn, args, kwargs)
    if why:
        name = getattr(fn, "__name__", type(fn).__name__)
        raise ModelError(
            f"layout: what is given does not fit {name}: {why}; a function's parameters, or their shapes, come first, then its inputs: "
            f"layout({name}, params, x)."
        )
    return Layout(find(fn, shapes_of(params), *inputs, **kwargs), config)


def _noting(owners: dict[str, nn.Module]) -> Callable:
    """An interceptor that notes the modules by their paths, the outer one where two have the same."""

    def noted(next_fun: Callable, args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext):
        if context.module.scope is not None and context.method_name != "setup":
            owners.setdefault("/".join(context.module.path), context.module)
        return next_fun(*args, **kwargs)

    return noted


def has_odd_padding(module: Any) -> bool:
    """Whether it is a convolution, of linen or NNX, with a padding that PEFT's adapter of a torch convolution does not have, or a transposed one.

    >>> has_odd_padding(nn.Conv(3, (2, 2), padding="CIRCULAR")), has_odd_padding(nn.Dense(3))
    (True, False)
    """
    padding = getattr(module, "padding", None)
    return isinstance(module, TRANSPOSED) or (isinstance(padding, str) and padding in ODD_PADDINGS)


def _require_method(model: nn.Module, method: Any) -> None:
    """Raises ModelError for the name of a method that the model does not have."""
    kind, fields = type(model), type(model).__dataclass_fields__
    if isinstance(method, str) and not callable(getattr(model, method, None)):
        own = [name for name in dir(kind) if callable(getattr(kind, name)) and name not in fields]
        names = ["__call__", *(name for name in own if not hasattr(nn.Module, name))]
        raise ModelError(
            f"method is {method!r}, and {kind.__name__} has no such method; closest: {closest(method, names)}."
        )
