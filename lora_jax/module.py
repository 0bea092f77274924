"""LoRA: a Flax module around a Flax module, with the same parameter paths and the adapters beside their kernels."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from lora_jax import targets
from lora_jax.config import LoRAConfig
from lora_jax.errors import ConfigError, TreeError
from lora_jax.interceptor import Seen, make_interceptor
from lora_jax.leaves import adapter_at, kernel_path, modules, require_fit, require_whole
from lora_jax.products import outside
from lora_jax.products.function import lora
from lora_jax.tree import flat, opened

# lora_scale is one number a layer: L of them have no other axis than 0.
_SCALAR_STACKED = re.compile(r"axis -?\d+ is out of bounds for array of dimension 1\b")


class _OutsideOnly(Exception):
    """Adapters cannot be made while the model is initialised."""


class LoRA(nn.Module):
    """`base_module` with low-rank adapters (Hu et al. 2021, arXiv:2106.09685, section 4).

    The parameters are those of the base, at the same paths and, for the same key, of the same values; each adapted
    layer has three more leaves: `lora_a` [D, R], `lora_b` [R, K] (float32) and `lora_scale` [], and what its variant needs. An adapter is
    present where these leaves are: `apply` on base parameters alone runs the base. `lora_scale` is data, so another
    alpha, another adapter of the same shapes, or none (scale 0) costs no retrace.

    Adapted is every kernel that a product eats: of the layers that Flax has, and parameters that a module of yours multiplies itself (an adapter of
    these lies in a dict beside its kernel, `w:io` for a `w` [D, K]; see `lora_jax.axes`).

    Works under jit, grad, vmap, nn.remat and nn.scan over any axis of the parameters. Adapter dropout is active when
    `apply` gets `rngs={"dropout": key}`. `apply(..., method=...)` takes the name of a method of the base, or a
    function of the base module.

    Raises (from `init`):
      TargetError: when a pattern of the config selects no layer; it names the closest paths.

    >>> import jax, jax.numpy as jnp
    >>> model = LoRA(nn.Dense(4), LoRAConfig(rank=2, targets="*"))
    >>> params = model.init(jax.random.key(0), jnp.ones((1, 3)))["params"]
    >>> {name: leaf.shape for name, leaf in params.items()}
    {'kernel': (3, 4), 'bias': (4,), 'lora_a': (3, 2), 'lora_b': (2, 4), 'lora_scale': ()}
    """

    base_module: Any  # nn.Module; another is told in `setup`
    config: LoRAConfig

    def setup(self):
        if not isinstance(self.base_module, nn.Module):
            raise ConfigError(
                f"LoRA wraps a flax.linen module, and this is {type(self.base_module).__name__}; for NNX there is lora_jax.nnx.LoRA."
            )
        nn.share_scope(self, self.base_module)

    def __call__(self, *args, **kwargs):
        seen = Seen()
        y = self._adapted(seen, type(self.base_module).__call__, *args, **kwargs)
        if self.is_initializing():
            targets.count_matches(self.config, seen.layers)
        return y

    @nn.nowrap
    def with_config(self, config: LoRAConfig) -> "LoRA":
        """The same model under another config.

        >>> LoRA(nn.Dense(4), LoRAConfig(rank=2, targets="*")).with_config(LoRAConfig(rank=1, targets="*")).config.rank
        1
        """
        return LoRA(self.base_module, config)

    def _adapted(self, seen: Seen, method: Callable, *args, **kwargs):
        """Runs `method` of the base module with the side paths in place, as a module inside of another one or while it is initialised."""
        dropout = self.config.dropout if self.has_rng("dropout") else 0.0
        with nn.intercept_methods(make_interceptor(self.config, seen, dropout)):
            y = method(self.base_module, *args, **kwargs)
        seen.require_served()
        return y

    def apply(self, variables, *args, method: Callable | str | None = None, **kwargs) -> Any:
        """As `nn.Module.apply`; `method` speaks of the base module, and always runs with the adapters.

        Raises:
          TreeError: for an adapter that is not whole, has no kernel beside it, or is of another kernel's shape.
          TargetError: for an adapter of a layer that runs and that LoRA cannot adapt.

        >>> import jax, jax.numpy as jnp
        >>> model = LoRA(nn.Dense(4), LoRAConfig(rank=2, targets="*"))
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> model.apply(variables, jnp.ones((2, 3))).shape
        (2, 4)
        """
        params = variables.get("params", {})
        if not modules(flat(params)):
            require_whole(flat(params))
            return self.base_module.apply(variables, *args, method=method, **kwargs)
        others = {name: collection for name, collection in variables.items() if name != "params"}

        def run(base: Any, others: dict[str, Any], *args, **kwargs) -> Any:
            return self.base_module.apply({**others, "params": base}, *args, method=method, **kwargs)

        adapted = lora(run, dropout=self.config.dropout, key=_dropout_key(kwargs.get("rngs")))
        return _with_params(adapted(params, others, *args, **kwargs), kwargs.get("mutable", False), params)

    def init_with_output(self, rngs, *args, method: Callable | str | None = None, **kwargs) -> Any:
        """As `nn.Module.init_with_output`, with `method` as for `apply`; `init` calls it.

        Raises:
          TargetError: as the class says.

        >>> import jax, jax.numpy as jnp
        >>> y, variables = LoRA(nn.Dense(4), LoRAConfig(rank=2, targets="*")).init_with_output(jax.random.key(0), jnp.ones((1, 3)))
        >>> y.shape
        (1, 4)
        """
        seen = Seen()
        try:
            y, variables = self._made_inside(seen, rngs, *args, method=method, **kwargs)
        except _OutsideOnly:
            seen = Seen()
            y, variables = self.base_module.init_with_output(rngs, *args, method=method, **kwargs)
        others = {name: collection for name, collection in variables.items() if name != "params"}
        streams = rngs if isinstance(rngs, Mapping) else {"params": rngs}

        def run(params: Any, others: dict[str, Any], rngs: Any, *args, **kwargs) -> Any:
            variables, mutable = {**others, "params": params}, list(others) or False
            return self.base_module.apply(variables, *args, method=method, rngs=rngs, mutable=mutable, **kwargs)

        own = {name: value for name, value in kwargs.items() if name not in ("mutable", "capture_intermediates")}
        params = outside.complete(
            streams["params"], variables["params"], self.config, seen.layers, run, others, streams, *args, **own
        )
        return y, {**variables, "params": params}

    @nn.nowrap
    def _made_inside(self, seen: Seen, rngs: Any, *args, method: Callable | str | None, **kwargs) -> tuple[Any, dict]:
        """The base initialised, adapters of known layers with it.

        Raises:
          _OutsideOnly: where layers are stacked along another axis of their parameters than 0: a stack hands no scale on.
        """
        chosen = type(self.base_module).__call__ if method is None else method
        chosen = getattr(type(self.base_module), chosen) if isinstance(chosen, str) else chosen
        try:
            y, variables = super().init_with_output(rngs, seen, chosen, *args, method=LoRA._adapted, **kwargs)
            leaves = flat(variables.get("params", {}))
            for module in modules(leaves):
                path = kernel_path(leaves, module)
                require_fit(path, opened(leaves[path]).shape, adapter_at(leaves, module), module)
        except (AssertionError, TreeError) as error:  # of the base itself, these come again
            raise _OutsideOnly from error
        except ValueError as error:
            if not _SCALAR_STACKED.search(str(error)):
                raise
            raise _OutsideOnly from error
        return y, variables


_ADAPTER = 0x10BA  # sets the adapters' stream apart from the model's own


def _dropout_key(rngs: Any) -> jax.Array | None:
    """Of the adapters, where `apply` got an rng for dropout."""
    key = rngs.get("dropout") if isinstance(rngs, Mapping) else None
    return None if key is None else jax.random.fold_in(key, _ADAPTER)


def _with_params(result: Any, mutable: Any, params: Any) -> Any:
    """What `apply` gives, its "params" those that it was given: on the way through they were kernels with their updates."""
    if mutable is False or not isinstance(result, tuple):
        return result
    y, changed = result
    return (y, {**changed, "params": params}) if "params" in changed else result
