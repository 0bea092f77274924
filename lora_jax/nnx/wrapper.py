"""LoRA for an NNX model, with the interface of `lora_jax.LoRA`: what takes the one takes the other."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from lora_jax import axes, known, products
from lora_jax.config import LoRAConfig
from lora_jax.errors import ConfigError, TargetError, TreeError
from lora_jax.intake import described, params_in, require_key, tree_of
from lora_jax.layout import Layout, has_odd_padding
from lora_jax.leaves import (
    Adapter,
    adapter_at,
    is_adapter_leaf,
    kernel_path,
    modules,
    require_fit,
    require_whole,
)
from lora_jax.mode import is_training
from lora_jax.module import require_arguments
from lora_jax.nnx import injection, sites, targeting
from lora_jax.nnx.statistics import put_statistics, warn_of_changed
from lora_jax.nnx.trees import as_tree, named, value_of
from lora_jax.products.find import find
from lora_jax.products.function import beside, lora, shapes_of
from lora_jax.tree import Params, flat, nested, opened, require_base


class LoRA:
    """An NNX model with low-rank adapters (Hu et al. 2021, arXiv:2106.09685, section 4).

    Its parameters are a tree of plain dicts, `base_params`: the model's `nnx.Param`s under their own paths, so that `lora_jax.adapt`,
    masks, training, sweeps, merging, checkpoints and PEFT files work as for linen. The model itself is not changed. `inject` gives an
    NNX model with the adapters in place, for those who train it by `nnx.Optimizer`.

    Adapted is every kernel that a product reads. Those of Linear, LinearGeneral, Einsum, Conv and Embed are known; others (a `w` that a module of
    yours multiplies itself, a cell, experts) are found by following the parameters, which takes an example input at `init`. Layers that share a
    kernel share its adapter.

    Other state (batch statistics, random streams) is that of the model when it was wrapped; `apply` does not carry it on. The model's mode is its
    own too: without a key for dropout `apply` runs it as after `model.eval()`, with one as it was when it was wrapped; adapter dropout is on with a
    key, unless the model is in evaluation mode or the call says so (`deterministic=True`, `train=False`).

    Raises:
      TargetError: when a pattern of the config speaks of nothing in the model (it names the closest paths), or of a layer that LoRA cannot adapt.

    >>> model = LoRA(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), LoRAConfig(rank=2, targets="*"))
    >>> params = model.init(jax.random.key(0))["params"]
    >>> {name: leaf.shape for name, leaf in params.items()}
    {'bias': (4,), 'kernel': (3, 4), 'lora_a': (3, 2), 'lora_b': (2, 4), 'lora_scale': ()}
    """

    def __init__(self, base_module: nnx.Module, config: LoRAConfig):
        require_arguments(LoRA, base_module, config)
        if not isinstance(base_module, nnx.Module):
            raise ConfigError(
                f"lora_jax.nnx.LoRA wraps an NNX model, and this is {described(base_module)}; lora_jax.LoRA is for linen and for functions."
            )
        self.base_module, self.config = base_module, config
        self._graph, params, self._rest = nnx.split(base_module, nnx.Param, ...)
        self._variables = {named(path): (path, leaf) for path, leaf in nnx.to_flat_state(params)}
        self.base_params = nested({name: value_of(leaf) for name, (_, leaf) in self._variables.items()})
        self._require_plain()
        self._known, self._others = sites.known(base_module), sites.unknown(base_module)
        targeting.require_matches(config, base_module, self._known, self._others)

    def __repr__(self) -> str:
        return f"lora_jax.nnx.LoRA({type(self.base_module).__name__}, {self.config})"

    @property
    def layout(self) -> Layout:
        """The kernels that are known without a run, by the places of their adapters; `layout_of` an input has all of them, and all of their uses."""
        untold = {path: dataclasses.replace(site, uses=[]) for path, site in self._known.items() if site.is_lookup}
        return Layout({**self._known, **untold, **self._others}, self.config)

    def _require_plain(self) -> None:
        """Raises TargetError for a model that has adapters already."""
        adapted = next((path for path in flat(self.base_params) if is_adapter_leaf(path)), None)
        if adapted is not None:
            raise TargetError(
                f"the model holds an adapter at {adapted} (nnx.LoRALinear, or injected before); wrap the plain model."
            )

    def layout_of(self, *args: Any, method: Callable | str = "__call__", **kwargs: Any) -> Layout:
        """As `lora_jax.layout`: every kernel that LoRA could adapt, by the place of its adapter. Nothing is computed.

        Args:
          *args, **kwargs: an example input of the model.
          method: as for `apply`.

        >>> import jax.numpy as jnp
        >>> model = LoRA(nnx.Embed(5, 2, rngs=nnx.Rngs(0)), LoRAConfig(rank=1, targets="*"))
        >>> model.layout_of(jnp.zeros(3, int))[""].uses[0].operation
        'gather'
        """
        found = find(self._run(method), shapes_of(self.base_params), None, *args, **kwargs)
        owners = sites.modules(self.base_module)
        for site in found.values():
            owner = owners.get(site.path.rpartition("/")[0])
            site.kind, site.is_padded_oddly = type(owner).__name__ if owner is not None else "", has_odd_padding(owner)
        return Layout(found, self.config)

    def with_config(self, config: LoRAConfig) -> "LoRA":
        """The same model under another config.

        >>> model = LoRA(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), LoRAConfig(rank=2, targets="*"))
        >>> model.with_config(LoRAConfig(rank=1, targets="*")).config.rank
        1
        """
        return LoRA(self.base_module, config)

    def init(self, key: jax.Array, *args: Any, method: Callable | str = "__call__", **kwargs: Any) -> dict:
        """`{"params": ...}`: the model's parameters and fresh adapters.

        Args:
          *args, **kwargs: an example input. Only kernels of no known layer need it.
          method: as for `apply`.

        Raises:
          TargetError: when a pattern of the config selects no kernel that a product reads, or may select one that only an example input shows.
          ConfigError: for a rank above what a start from the base (PiSSA, OLoRA) has room for.
          TreeError: for an abstract model.

        >>> model = LoRA(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), LoRAConfig(rank=2, targets="*"))
        >>> sorted(model.init(jax.random.key(0))["params"])
        ['bias', 'kernel', 'lora_a', 'lora_b', 'lora_scale']
        """
        require_key(key, "LoRA.init")
        if self._is_abstract:
            raise TreeError(
                f"{type(self.base_module).__name__} is abstract (nnx.eval_shape): its parameters are shapes; give values, by "
                "lora_jax.adapt(key, base_params, model, x)."
            )
        return {"params": self.onto(key, self.base_params, *args, method=method, **kwargs)}

    def onto(
        self, key: jax.Array, base_params: Any, *args: Any, method: Callable | str = "__call__", **kwargs: Any
    ) -> dict[str, Any]:
        """What `lora_jax.adapt` gives; call that.

        >>> layer = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
        >>> sorted(LoRA(layer, LoRAConfig(rank=2, targets="*")).onto(jax.random.key(0), nnx.state(layer)))
        ['bias', 'kernel', 'lora_a', 'lora_b', 'lora_scale']
        """
        params = as_tree(base_params)
        tree_of(params, "adapt: base_params")
        require_base(type(self.base_module).__name__, flat(self.base_params), flat(params))
        known.remember(flat(params))
        if args or kwargs:
            return products.adapt(key, params, self._run(method), self.config, None, *args, **kwargs)
        targeting.require_known(self.config, self._others.values())
        return beside(key, flat(params), {**self._known, **self._others}, self.config)

    @property
    def _is_abstract(self) -> bool:
        return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in flat(self.base_params).values())

    def _run(self, method: Callable | str) -> Callable:
        """The model as a function of its parameters and a key for dropout."""

        def run(base: Params, key: jax.Array | None, *args, **kwargs) -> Any:
            model = self._plain(flat(base), key)
            if key is None:
                model.eval()
            return method(model, *args, **kwargs) if callable(method) else getattr(model, method)(*args, **kwargs)

        return run

    def inject(
        self, params: Params, *, rngs: Mapping[str, jax.Array] | None = None, statistics: Params | None = None
    ) -> nnx.Module:
        """A new NNX model with these parameters and, wherever the tree holds an adapter, a side path.

        Paths of parameters are the model's, and so are its variables' classes and metadata; a quantised kernel is opened. The leaves of an adapter
        lie beside its kernel as in the tree, those that train as `LoRAParam`s, which are `nnx.LoRAParam`s. A module around an adapted kernel is of a
        subclass of its class, whose methods find the products inside of them, as `jax.jit` would trace them; so `model(x)`, `model.layers[0](x)`,
        nnx.jit, nnx.scan and the like add the side paths. Code outside of all methods that reads a kernel by hand gets the base's. A tree without
        adapters, such as `merge` gives, makes a plain model.

        Args:
          rngs: with a key "dropout", adapter dropout follows the model's mode, `model.train()` and `model.eval()`, and the model's own random streams
            begin at it. Without one it is off, and a model that is set to train is told so.
          statistics: batch statistics, as `lora_jax.nnx.statistics_of` a trained model gives them; by default the wrapped model's.

        Raises:
          TreeError: when the base part of `params` is not this model's (it lists every difference), or an adapter is not whole or not of
            the shape of its kernel.

        >>> import jax.numpy as jnp
        >>> model = LoRA(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), LoRAConfig(rank=2, targets="*"))
        >>> adapted = model.inject(model.init(jax.random.key(0))["params"])
        >>> isinstance(adapted, nnx.Linear), adapted(jnp.ones((1, 3))).shape
        (True, (1, 4))
        """
        leaves = tree_of(as_tree(params), "inject: params")
        self._require_own(leaves)
        key = (rngs or {}).get("dropout")
        self._require_values(None if key is None else nnx.RngState)
        model = self._plain(leaves, key)
        injection.inject(model, self._adapters(leaves), self.config.dropout, key)
        if statistics is not None:
            put_statistics(model, statistics)
        return model

    def _require_own(self, leaves: Mapping[str, Any]) -> None:
        """Raises TreeError where the base part of a flat tree is not this model's, or an adapter is not whole or of no kernel of it."""
        require_whole(leaves)
        base = {path: leaf for path, leaf in leaves.items() if not is_adapter_leaf(path)}
        require_base(type(self.base_module).__name__, flat(self.base_params), base)
        strange = [module for module in modules(leaves) if not _has_kernel(leaves, module)]
        if strange:
            raise TreeError(
                f"there is an adapter at {strange[0]}, where this model has no layer: it is of another model."
            )

    def _require_values(self, but: Any) -> None:
        """Raises TreeError where variables of the model that are no parameters are abstract, but for those of a class."""
        for path, leaf in nnx.to_flat_state(self._rest):
            value = leaf.get_raw_value() if isinstance(leaf, nnx.Variable) else leaf
            if isinstance(value, jax.ShapeDtypeStruct) and not (but is not None and isinstance(leaf, but)):
                raise TreeError(
                    f"{type(self.base_module).__name__} is abstract (nnx.eval_shape), and {named(path)} is no parameter that could be "
                    'given: wrap a model that has values there; for random streams alone give a key, inject(params, rngs={"dropout": key}).'
                )

    def _plain(self, leaves: Mapping[str, Any], key: jax.Array | None) -> nnx.Module:
        """The model itself with these parameters; with a key its random streams begin at it."""
        state = nnx.from_flat_state(
            [(path, own.replace(nn.meta.unbox(leaves[name]))) for name, (path, own) in self._variables.items()]
        )
        model = nnx.merge(self._graph, state, self._rest, copy=True)
        if key is not None:
            nnx.reseed(model, dropout=key, default=key)  # the stream that nnx.Rngs(0) has
        return model

    def _adapters(self, leaves: Mapping[str, Any]) -> dict[tuple, list[tuple[str, Adapter]]]:
        """(roles, adapter) by the path of the kernel that they are of; of its shape."""
        found: dict[tuple, list[tuple[str, Adapter]]] = {}
        for module in modules(leaves):
            kernel, adapter, told = kernel_path(leaves, module), adapter_at(leaves, module), axes.roles_in(module)
            require_fit(kernel, opened(leaves[kernel]).shape, adapter, module)
            found.setdefault(self._variables[kernel][0], []).append((told[1] if told else "", adapter))
        return found

    def params_of(self, model: nnx.Module, *, statistics: Params | None = None) -> dict:
        """The tree of a model from `inject`, after training say: the inverse of `inject`. Batch statistics are not in it (`statistics_of`).

        Args:
          statistics: those that you keep beside the tree, `lora_jax.nnx.statistics_of(model)`.

        Raises:
          UnsavedStateWarning: where the model's batch statistics are others than the wrapped model's, and than these.

        >>> import jax.numpy as jnp
        >>> model = LoRA(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), LoRAConfig(rank=2, targets="*"))
        >>> params = model.init(jax.random.key(0))["params"]
        >>> bool(jnp.array_equal(model.params_of(model.inject(params))["lora_a"], params["lora_a"]))
        True
        """
        warn_of_changed(model, self._rest, statistics)
        return injection.extracted(model)

    def apply(
        self,
        variables: Mapping[str, Any],
        *args: Any,
        rngs: Mapping[str, jax.Array] | None = None,
        method: Callable | str = "__call__",
        **kwargs: Any,
    ) -> Any:
        """What the model gives with `variables["params"]`; a pure function, for jit, grad and vmap.

        Args:
          *args, **kwargs: the model's own.
          rngs: with a key "dropout", the model's own dropout and that of the adapters draw from it, in the mode that the model was wrapped in;
            without one the model is in evaluation mode, as after `model.eval()`.
          method: the name of the method to call, or a function of the model.

        Raises:
          TreeError: as `inject`.

        >>> import jax.numpy as jnp
        >>> model = LoRA(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), LoRAConfig(rank=2, targets="*"))
        >>> model.apply(model.init(jax.random.key(0)), jnp.ones((2, 3))).shape
        (2, 4)
        """
        params, key = as_tree(params_in(variables, "LoRA.apply")), (rngs or {}).get("dropout")
        self._require_own(flat(params))
        self._require_values(nnx.RngState)
        call = method if callable(method) else getattr(type(self.base_module), method)
        is_on = is_training(self.base_module, call, args, kwargs) and not injection.is_evaluating(self.base_module)
        own = jax.random.fold_in(key, _ADAPTER) if is_on and key is not None else None
        return lora(self._run(method), dropout=self.config.dropout, key=own)(params, key, *args, **kwargs)


_ADAPTER = 0x10BA  # sets the adapters' stream apart from the model's own


def _has_kernel(leaves: Mapping[str, Any], module: str) -> bool:
    try:
        kernel_path(leaves, module)
    except TreeError:
        return False
    return True
