"""The layout of a model: every layer that LoRA could adapt, with what its kernel is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from lora_jax.errors import ConfigError, ModelError, TargetError, closest
from lora_jax.layers import Rule, bound, rule_for
from lora_jax.module import LoRA


class Site(NamedTuple):
    """A layer that LoRA could adapt; `kernel` is its shape in the layer, without the axes of a stack."""

    kind: str  # "Dense", "DenseGeneral", "Einsum", "Conv" or "Embed"
    leaf: str  # "kernel" or "embedding"
    kernel: tuple[int, ...]
    at: int  # how many leading axes of the kernel `a` spans
    inputs: tuple[int, ...]  # the axes that the layer sums over
    is_linear: bool
    methods: tuple[str, ...]  # those that were called, "attend" say
    is_plain: bool = (
        True  # False for a convolution with groups, dilation or a padding that torch's Conv2d does not have
    )

    @property
    def is_transposed(self) -> bool:
        """Outputs first, as torch has them: an Einsum of this kind."""
        return self.inputs == tuple(range(self.at, len(self.kernel)))


def layout(base_module: Any, *args: Any, **kwargs: Any) -> dict[str, Site]:
    """Every layer of a flax.linen model that LoRA could adapt, by its path; nothing is computed.

    A layer that it cannot adapt (a Conv with a mask, an Einsum that is no product of its input and kernel) is left out.

    Args:
      *args, **kwargs: an example input, as for `base_module.init`; `method=` names another method than `__call__`.

    Raises:
      ConfigError: for a model of another API than flax.linen. ModelError: for the name of a method that the model does not have.

    >>> import jax.numpy as jnp
    >>> layout(nn.Embed(7, 4), jnp.ones((1, 3), int))[""].kernel
    (7, 4)
    """
    _require_linen(base_module)
    _require_method(base_module, kwargs.get("method"))
    found: dict[str, Site] = {}

    def interceptor(next_fun: Callable, args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext):
        y = next_fun(*args, **kwargs)
        module, rule = context.module, rule_for(context.module, context.orig_method.func)
        if rule is not None and module.scope is not None:
            _, inputs, rest = bound(next_fun, context.orig_method, args, kwargs)
            path = "/".join(module.path)
            before = found[path].methods if path in found else ()
            site = _site(module, rule, inputs, rest, (*before, context.method_name))
            if site is not None:
                found[path] = site
        return y

    def init(key):
        with nn.intercept_methods(interceptor):
            return base_module.init(key, *args, **kwargs)

    jax.eval_shape(init, jax.random.key(0))
    return found


def _require_linen(model: Any) -> None:
    """Raises ConfigError for a model of another API."""
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"layout reads flax.linen modules, and this is {type(model).__name__} of {type(model).__module__}; an NNX model's layout is that of "
            "its wrapper, lora_jax.nnx.LoRA(model, config).layout_of(x)."
        )


def _require_method(model: nn.Module, method: Any) -> None:
    """Raises ModelError for the name of a method that the model does not have."""
    model = model.base_module if isinstance(model, LoRA) else model
    kind, fields = type(model), type(model).__dataclass_fields__
    if isinstance(method, str) and not callable(getattr(model, method, None)):
        own = [name for name in dir(kind) if callable(getattr(kind, name)) and name not in fields]
        names = ["__call__", *(name for name in own if not hasattr(nn.Module, name))]
        raise ModelError(
            f"method is {method!r}, and {kind.__name__} has no such method; closest: {closest(method, names)}."
        )


def _site(module: nn.Module, rule: Rule, inputs: Any, rest: list, methods: tuple[str, ...]) -> Site | None:
    """None for a layer that LoRA cannot adapt: only one that a config selects is a mistake, and `LoRA.init` says so there."""
    kernel = nn.meta.unbox(module.scope.get_variable("params", rule.kernel))
    try:
        split = rule.split(module, kernel, inputs, *rest)
    except TargetError:
        return None
    called = tuple(sorted(set(methods)))
    is_plain = not isinstance(module, nn.Conv) or torch_has_such_a_convolution(module)
    return Site(rule.kind, rule.kernel, kernel.shape, split.at, split.inputs, rule.is_linear, called, is_plain)


def torch_has_such_a_convolution(conv: Any) -> bool:
    """Whether PEFT's adapters of a torch convolution mean the same as ours for this one, of linen or NNX."""
    dilations = [*np.ravel(conv.input_dilation or 1), *np.ravel(conv.kernel_dilation or 1)]
    is_padded_oddly = isinstance(conv.padding, str) and conv.padding in ("CIRCULAR", "CAUSAL", "REFLECT")
    return conv.feature_group_count == 1 and all(d == 1 for d in dilations) and not is_padded_oddly
