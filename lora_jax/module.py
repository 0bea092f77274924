"""LoRA: a Flax module around a Flax module, with the same parameter paths and the adapters beside their kernels."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from lora_jax import known, products
from lora_jax.config import LoRAConfig
from lora_jax.errors import ConfigError
from lora_jax.intake import described, params_in, require_inputs, require_key, tree_of
from lora_jax.leaves import modules, require_whole
from lora_jax.mode import is_training
from lora_jax.of_function import FunctionLoRA
from lora_jax.products.function import lora
from lora_jax.tree import flat, require_base


class LoRA(nn.Module):
    """`base_module` with low-rank adapters (Hu et al. 2021, arXiv:2106.09685, section 4).

    The parameters are those of the base, at the same paths and, for the same key, of the same values; each adapted
    layer has three more leaves: `lora_a` [D, R], `lora_b` [R, K] (float32) and `lora_scale` [], and what its variant needs. An adapter is
    present where these leaves are: `apply` on base parameters alone runs the base. `lora_scale` is data, so another
    alpha, another adapter of the same shapes, or none (scale 0) costs no retrace.

    Adapted is every kernel that a product reads, whatever module multiplies it. The adapter of a `kernel` or `embedding` lies beside it, that of
    another in a dict beside it, `w:io` for a `w` [D, K]; see `lora_jax.axes`.

    Works under jit, grad, vmap, nn.remat and nn.scan over any axis of the parameters. Adapter dropout is active when
    `apply` gets `rngs={"dropout": key}` and the model is in training: where its call has an argument `deterministic`, `train`, `training` or
    `is_training`, or it a field of this name, that decides. `apply(..., method=...)` takes the name of a method of the base, or a
    function of the base module.

    `LoRA(fn, config)` of a function `fn(params, *args)` is a `lora_jax.of_function.FunctionLoRA`, with the same `init` and `apply`.

    Raises (from `init`):
      TargetError: when a pattern of the config selects no layer; it names the closest paths.

    >>> import jax, jax.numpy as jnp
    >>> model = LoRA(nn.Dense(4), LoRAConfig(rank=2, targets="*"))
    >>> params = model.init(jax.random.key(0), jnp.ones((1, 3)))["params"]
    >>> {name: leaf.shape for name, leaf in params.items()}
    {'bias': (4,), 'kernel': (3, 4), 'lora_a': (3, 2), 'lora_b': (2, 4), 'lora_scale': ()}
    """

    base_module: Any  # nn.Module; another is told in `setup`
    config: LoRAConfig

    def __new__(cls, base_module: Any = None, *args: Any, **kwargs: Any) -> Any:
        if base_module is not None or args or kwargs:
            require_arguments(cls, base_module, args[0] if args else kwargs.get("config"))
        if callable(base_module) and not isinstance(base_module, (nn.Module, nnx.Module, type)):
            return FunctionLoRA(base_module, *args, **kwargs)
        if isinstance(base_module, nnx.Module):
            _require_linen(base_module)
        return super().__new__(cls)

    def setup(self):
        _require_linen(self.base_module)
        nn.share_scope(self, self.base_module)

    def __call__(self, *args, **kwargs):
        """As a module inside of another one; by itself it runs through `apply` and `init`."""
        if self.is_initializing():
            y = self.base_module(*args, **kwargs)
            self._put_adapters(args, kwargs)
            return y
        base, variables = self.base_module.unbind()
        rngs = {name: self.make_rng(name) for name in self.scope.rngs if name != "params"}
        run = functools.partial(LoRA.apply, LoRA(base, self.config, parent=None), variables, *args, rngs=rngs, **kwargs)
        if self.scope.mutable is False:
            return run()
        y, changed = run(mutable=self.scope.mutable)
        for collection, values in changed.items():
            for name, value in values.items() if collection != "params" else ():
                self.scope.put_variable(collection, name, value)
        return y

    def _put_adapters(self, args: tuple, kwargs: dict[str, Any]) -> None:
        """Fresh adapters into the scope, for the base's parameters there."""
        base, variables = self.base_module.unbind()
        params = variables.get("params", {})
        if modules(flat(params)):  # called twice
            return
        counters = self.scope.rng_counters
        before = dict(
            counters
        )  # nn.scan traces its body twice over one counter: a draw of ours would change the base's kernels
        key, rngs = self.make_rng("params"), {name: self.make_rng(name) for name in self.scope.rngs}
        counters.update(before)
        whole = LoRA(base, self.config, parent=None)._beside(
            key, params, *args, variables=variables, rngs=rngs, **kwargs
        )
        for name, value in whole.items():
            self.scope.put_variable("params", name, value)

    @nn.nowrap
    def __repr__(self) -> str:
        return f"LoRA({type(self.base_module).__name__}, {self.config})"

    @nn.nowrap
    def tabulate(self, rngs: Any, *args: Any, **kwargs: Any) -> str:
        """The base's own table (`nn.Module.tabulate`), and below it what `lora_jax.report` says of fresh adapters; nothing is computed.

        >>> import jax, jax.numpy as jnp
        >>> table = LoRA(nn.Dense(4), LoRAConfig(rank=2, targets="*")).tabulate(jax.random.key(0), jnp.ones((1, 3)))
        >>> "Dense Summary" in table, table.splitlines()[-1]
        (True, 'trainable 14, total 30, 46.667 %')
        """
        from lora_jax.report import report  # which imports this

        own = {name: value for name, value in kwargs.items() if name not in _OF_TABULATE}
        params = jax.eval_shape(lambda: self.init(rngs, *args, **own))["params"]
        return f"{self.base_module.tabulate(rngs, *args, **kwargs)}\n{report(params, config=self.config)}"

    @nn.nowrap
    def with_config(self, config: LoRAConfig) -> "LoRA":
        """The same model under another config.

        >>> LoRA(nn.Dense(4), LoRAConfig(rank=2, targets="*")).with_config(LoRAConfig(rank=1, targets="*")).config.rank
        1
        """
        return LoRA(self.base_module, config)

    def apply(self, variables, *args, method: Callable | str | None = None, **kwargs) -> Any:
        """As `nn.Module.apply`; `method` speaks of the base module, and always runs with the adapters.

        Raises:
          TreeError: for an adapter that is not whole, has no kernel beside it, or is of another kernel's shape.

        >>> import jax, jax.numpy as jnp
        >>> model = LoRA(nn.Dense(4), LoRAConfig(rank=2, targets="*"))
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> model.apply(variables, jnp.ones((2, 3))).shape
        (2, 4)
        """
        _require_linen(self.base_module)
        params = params_in(variables, "LoRA.apply")
        if not modules(flat(params)):
            require_whole(flat(params))
            return self.base_module.apply(variables, *args, method=method, **kwargs)
        others = {name: collection for name, collection in variables.items() if name != "params"}

        def run(base: Any, others: dict[str, Any], *args, **kwargs) -> Any:
            return self.base_module.apply({**others, "params": base}, *args, method=method, **kwargs)

        key = _dropout_key(kwargs.get("rngs"))
        own = {name: value for name, value in kwargs.items() if name not in _OF_APPLY}
        if key is not None and not is_training(self.base_module, self._call(method), args, own):
            key = None
        adapted = lora(run, dropout=self.config.dropout, key=key)
        return _with_params(adapted(params, others, *args, **kwargs), kwargs.get("mutable", False), params)

    @nn.nowrap
    def _call(self, method: Callable | str | None) -> Callable:
        """The method of the base, as a function of it."""
        if callable(method):
            return method
        return getattr(type(self.base_module), method or "__call__", type(self.base_module).__call__)

    def init_with_output(self, rngs, *args, method: Callable | str | None = None, **kwargs) -> Any:
        """As `nn.Module.init_with_output`, with `method` as for `apply`; `init` calls it.

        Raises:
          TargetError: as the class says.

        >>> import jax, jax.numpy as jnp
        >>> y, variables = LoRA(nn.Dense(4), LoRAConfig(rank=2, targets="*")).init_with_output(jax.random.key(0), jnp.ones((1, 3)))
        >>> y.shape
        (1, 4)
        """
        _require_linen(self.base_module)
        require_key(rngs, "LoRA.init")
        self._require_inputs("LoRA.init", args, {**kwargs, "method": method})
        y, variables = self.base_module.init_with_output(rngs, *args, method=method, **kwargs)
        streams = rngs if isinstance(rngs, Mapping) else {"params": rngs}
        own = {name: value for name, value in kwargs.items() if name not in _OF_APPLY}
        params = self._beside(
            streams["params"], variables["params"], *args, variables=variables, rngs=streams, method=method, **own
        )
        return y, {**variables, "params": params}

    @nn.nowrap
    def onto(self, key: Any, base_params: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What `lora_jax.adapt` gives; call that.

        >>> import jax.numpy as jnp
        >>> model, x = LoRA(nn.Dense(4), LoRAConfig(rank=2, targets="*")), jnp.ones((1, 3))
        >>> sorted(model.onto(jax.random.key(1), model.base_module.init(jax.random.key(0), x)["params"], x))
        ['bias', 'kernel', 'lora_a', 'lora_b', 'lora_scale']
        """
        _require_linen(self.base_module)
        base = tree_of(base_params, "adapt: base_params")
        self._require_inputs("adapt", args, kwargs)
        variables = jax.eval_shape(lambda key: self.base_module.init(key, *args, **kwargs), key)
        require_base(type(self.base_module).__name__, flat(variables.get("params", {})), base)
        known.remember(base, variables)
        streams = key if isinstance(key, Mapping) else {"params": key}
        return self._beside(streams["params"], base_params, *args, variables=variables, rngs=streams, **kwargs)

    @nn.nowrap
    def _require_inputs(self, where: str, args: tuple, kwargs: Mapping[str, Any]) -> None:
        own = {name: value for name, value in kwargs.items() if name not in (*_OF_APPLY, "method")}
        require_inputs(self._call(kwargs.get("method")), self.base_module, args, own, where)

    @nn.nowrap
    def _beside(
        self, key: jax.Array, base_params: Any, *args: Any, variables: Mapping[str, Any], rngs: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """The base's parameters with fresh adapters; `variables` are the other collections, or their shapes."""
        others = {name: collection for name, collection in variables.items() if name != "params"}
        return products.adapt(
            key, base_params, function_of(self.base_module), self.config, others, rngs, *args, **kwargs
        )


def function_of(base_module: nn.Module) -> Callable:
    """The model as `fn(params, other collections, rngs, *args, **kwargs)`, which `find` follows; what it changes is left out.

    >>> import jax.numpy as jnp
    >>> function_of(nn.Dense(4, use_bias=False))({"kernel": jnp.ones((3, 4))}, {}, {}, jnp.ones((1, 3))).shape
    (1, 4)
    """

    def run(params: Any, others: dict[str, Any], rngs: Any, *args, **kwargs) -> Any:
        result = base_module.apply({**others, "params": params}, *args, rngs=rngs, mutable=list(others), **kwargs)
        return result[0]

    return run


def require_arguments(cls: type, base_module: Any, config: Any) -> None:
    """Raises ConfigError where a wrapper is given something else than a model and a LoRAConfig.

    >>> require_arguments(LoRA, nn.Dense(3), LoRAConfig(rank=2))
    """
    if isinstance(config, LoRAConfig) and not isinstance(base_module, LoRAConfig):
        return
    raise ConfigError(
        f"{cls.__module__.rpartition('.')[0]}.LoRA is given {described(base_module)} and {described(config)} for its config; write LoRA(model, "
        "lora_jax.LoRAConfig(rank=8, ...))."
    )


def _require_linen(base_module: Any) -> None:
    if not isinstance(base_module, nn.Module):
        raise ConfigError(
            f"LoRA wraps a flax.linen module or a function fn(params, *args), and this is {type(base_module).__name__}; for NNX there is "
            "lora_jax.nnx.LoRA."
        )


_OF_APPLY = ("rngs", "mutable", "capture_intermediates")  # its own arguments, which the model does not see
_OF_TABULATE = (
    "depth", "show_repeated", "mutable", "console_kwargs", "table_kwargs", "column_kwargs", "compute_flops", "compute_vjp_flops",
)  # fmt: skip
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
