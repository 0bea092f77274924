"""LoRA for an NNX model, with the interface of `lora_jax.LoRA`: what takes the one takes the other."""

import dataclasses
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from lora_jax import starts, targets
from lora_jax.config import LoRAConfig
from lora_jax.errors import TargetError, TreeError
from lora_jax.leaves import (
    Adapter,
    adapter_at,
    as_leaves,
    is_adapter_leaf,
    kernel_path,
    modules,
    require_fit,
    require_whole,
)
from lora_jax.nnx import hooks, sites
from lora_jax.products.function import lora
from lora_jax.products.replay import Use
from lora_jax.products.site import Site
from lora_jax.tree import Params, differences, flat, nested, opened


class LoRA:
    """An NNX model with low-rank adapters (Hu et al. 2021, arXiv:2106.09685, section 4).

    Its parameters are a tree of plain dicts, `base_params`: the model's `nnx.Param`s under their own paths, so that `lora_jax.adapt`,
    masks, training, sweeps, merging, checkpoints and PEFT files work as for linen. The model itself is not changed. `inject` gives an
    NNX model with the adapters in place, for those who train it by `nnx.Optimizer`.

    Other state (batch statistics, random streams) is that of the model when it was wrapped; `apply` does not carry it on.

    Raises:
      TargetError: when a pattern of the config selects no layer (it names the closest paths), or one that LoRA cannot adapt.

    >>> model = LoRA(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), LoRAConfig(rank=2, targets="*"))
    >>> params = model.init(jax.random.key(0))["params"]
    >>> {name: leaf.shape for name, leaf in params.items()}
    {'bias': (4,), 'kernel': (3, 4), 'lora_a': (3, 2), 'lora_b': (2, 4), 'lora_scale': ()}
    """

    def __init__(self, base_module: nnx.Module, config: LoRAConfig):
        self.base_module, self.config = base_module, config
        self._graph, params, self._rest = nnx.split(base_module, nnx.Param, ...)
        self._variables = {"/".join(map(str, path)): (path, leaf) for path, leaf in nnx.to_flat_state(params)}
        self.base_params = nested({name: leaf[...] for name, (_, leaf) in self._variables.items()})
        self.layout = sites.layout(base_module, config)
        self._require_plain()
        targets.count_matches(config, {(path, sites.is_linear(layer)) for path, layer in sites.layers(base_module)})

    def _require_plain(self) -> None:
        """Raises TargetError for a model that has adapters already, or layers that share a kernel."""
        leaves = flat(self.base_params)
        adapted = next((path for path in leaves if is_adapter_leaf(path)), None)
        if adapted is not None:
            raise TargetError(
                f"the model holds an adapter at {adapted} (nnx.LoRALinear, or injected before); wrap the plain model."
            )
        for path, site in self.layout.items():
            if f"{path}/{site.leaf}".lstrip("/") not in leaves:
                raise TargetError(
                    f"{path} shares its kernel with another layer, where NNX keeps it; LoRA needs a kernel for each."
                )

    def layout_of(self, *args: Any, **kwargs: Any) -> dict[str, Site]:
        """`layout` with what only a run shows: whether an embedding is tied, which PEFT's files need to know. Nothing is computed.

        Args:
          *args, **kwargs: an example input of the model.

        >>> model = LoRA(nnx.Embed(5, 2, rngs=nnx.Rngs(0)), LoRAConfig(rank=1, targets="*"))
        >>> model.layout_of(jnp.zeros(3, int))[""].uses[0].operation
        'gather'
        """
        tied: set[tuple[int, int]] = set()
        with sites.noting_attend(tied):
            jax.eval_shape(lambda params: self.apply({"params": params}, *args, **kwargs), self.base_params)

        def called(site: Site) -> Site:
            if site.kind != "Embed":
                return site
            uses = [Use("gather", roles="io"), *([Use("dot_general", roles="oi")] if site.kernel in tied else [])]
            return dataclasses.replace(site, uses=uses)

        return {path: called(site) for path, site in self.layout.items()}

    def with_config(self, config: LoRAConfig) -> "LoRA":
        """The same model under another config.

        >>> model = LoRA(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), LoRAConfig(rank=2, targets="*"))
        >>> model.with_config(LoRAConfig(rank=1, targets="*")).config.rank
        1
        """
        return LoRA(self.base_module, config)

    def init(self, key: jax.Array, *args: Any, **kwargs: Any) -> dict:
        """`{"params": ...}`: the model's parameters and fresh adapters. The arguments are not needed, and taken as linen's `init` takes them.

        Raises:
          ConfigError: for a rank above what a start from the base (PiSSA, OLoRA) has room for.

        >>> model = LoRA(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), LoRAConfig(rank=2, targets="*"))
        >>> sorted(model.init(jax.random.key(0))["params"])
        ['bias', 'kernel', 'lora_a', 'lora_b', 'lora_scale']
        """
        fresh = {}
        for path, layer in sites.layers(self.base_module):
            if targets.is_target(self.config, path, is_linear=sites.is_linear(layer)):
                own = jax.random.fold_in(key, zlib.crc32(path.encode()))
                fresh |= as_leaves(self._begun(own, path, layer), f"{path}/".lstrip("/"))
        return {"params": nested({**flat(self.base_params), **fresh})}

    def _begun(self, key: jax.Array, path: str, layer: nnx.Module) -> Adapter:
        """The fresh adapter of a layer, or of each of a stack."""
        config, site = self.config, self.layout[path]
        rank, alpha = targets.rank_and_alpha(config, path)
        at = len(site.kernel) - len(site.inputs) if site.is_transposed else len(site.inputs)
        shape = math.prod(site.kernel[:at]), math.prod(site.kernel[at:])
        starts.require_room(path, config, rank, shape)
        stack, kernel = site.stack, sites.kernel_of(layer)[...]

        def one(key, kernel):
            a, b = starts.drawn(
                key, config, shape, rank, random=sites.random_side(path, layer), is_embed=site.kind == "Embed"
            )
            scale = jnp.asarray(config.scale(rank=rank, alpha=alpha), jnp.float32)
            norm = jnp.ones([1 if i in site.inputs else n for i, n in enumerate(site.kernel)]) if config.dora else None
            return starts.from_base(config, kernel, Adapter(a, b, scale, norm=norm))

        if not stack:
            return one(key, kernel)
        flat_kernel = kernel.reshape(-1, *site.kernel)
        begun = jax.vmap(one)(jax.random.split(key, len(flat_kernel)), flat_kernel)
        return jax.tree.map(lambda leaf: leaf.reshape(*stack, *leaf.shape[1:]), begun)

    def inject(self, params: Params, *, rngs: Mapping[str, jax.Array] | None = None) -> nnx.Module:
        """A new NNX model with these parameters and, wherever the tree holds an adapter, a side path.

        Paths of parameters and classes are the model's (an adapted Embed is of a subclass), and so are its variables' classes and metadata; a
        quantised kernel is opened. Adapters' trainable leaves are `LoRAParam`s. A tree without adapters, such as `merge` gives, makes a plain model.

        Args:
          rngs: with a key "dropout", adapter dropout is active, and the model's own random streams begin at it.

        Raises:
          TreeError: when the base part of `params` is not this model's (it lists every difference), or an adapter is not whole or not of
            the shape of its kernel.

        >>> model = LoRA(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), LoRAConfig(rank=2, targets="*"))
        >>> adapted = model.inject(model.init(jax.random.key(0))["params"])
        >>> type(adapted).__name__, adapted(jnp.ones((1, 3))).shape
        ('Linear', (1, 4))
        """
        leaves = flat(params)
        self._require_own(leaves)
        adapters = self._adapters(leaves)
        key = (rngs or {}).get("dropout")
        model = self._plain(leaves, key)
        for path, layer in list(sites.layers(model)):
            if path in adapters:
                hooks.attach(layer, adapters[path], self._dropout(path, layer, key))
        return model

    def _require_own(self, leaves: Mapping[str, Any]) -> None:
        """Raises TreeError where the base part of a flat tree is not this model's, or an adapter is not whole or of no layer of it."""
        require_whole(leaves)
        base = {path: leaf for path, leaf in leaves.items() if not is_adapter_leaf(path)}
        problems = differences(flat(self.base_params), base, any_dtype=True)
        if problems:
            raise TreeError(f"the parameters do not fit {type(self.base_module).__name__}: {'; '.join(problems)}.")
        strange = [module for module in modules(leaves) if not _has_kernel(leaves, module)]
        if strange:
            raise TreeError(
                f"there is an adapter at {strange[0]}, where this model has no layer: it is of another model."
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

    def _adapters(self, leaves: Mapping[str, Any]) -> dict[str, Adapter]:
        """The adapter of each layer that has one, of its kernel's shape."""
        found = {}
        for module in modules(leaves):
            path = module.rstrip("/")
            if path not in self.layout:
                raise TreeError(
                    f"there is an adapter at {module}, which no layer of an NNX model can hold by itself (it holds those of "
                    f"{', '.join(kind.__name__ for kind in sites.KINDS)}); use `apply`, or take it out."
                )
            kernel = module + self.layout[path].leaf
            found[path] = adapter_at(leaves, module)
            require_fit(kernel, opened(leaves[kernel]).shape, found[path])
        return found

    def params_of(self, model: nnx.Module) -> dict:
        """The tree of a model from `inject`, after training say: the inverse of `inject`.

        >>> model = LoRA(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), LoRAConfig(rank=2, targets="*"))
        >>> params = model.init(jax.random.key(0))["params"]
        >>> bool(jnp.array_equal(model.params_of(model.inject(params))["lora_a"], params["lora_a"]))
        True
        """
        state = nnx.state(model, (nnx.Param, hooks.LoRASetting))
        leaves = {}
        for path, leaf in nnx.to_flat_state(state):
            name = "/".join(map(str, path))
            if is_adapter_leaf(name):  # it lies in its hook, and in the tree beside the kernel
                name = "/".join(map(str, (*path[:-2], path[-1])))
            leaves[name] = leaf[...]
        return nested(leaves)

    def _dropout(self, path: str, layer: nnx.Module, key: jax.Array | None) -> nnx.Dropout | None:
        if key is None or self.config.dropout == 0:
            return None
        if self.layout[path].stack:
            raise TargetError(
                f"{path} is a stack of layers, which adapter dropout does not reach in NNX; set dropout=0."
            )
        own = jax.random.fold_in(key, zlib.crc32(path.encode()))
        return nnx.Dropout(self.config.dropout, rngs=nnx.Rngs(dropout=own))

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
          rngs: as for `inject`.
          method: the name of the method to call, or a function of the model.

        Raises:
          TreeError: as `inject`.

        >>> model = LoRA(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), LoRAConfig(rank=2, targets="*"))
        >>> model.apply(model.init(jax.random.key(0)), jnp.ones((2, 3))).shape
        (2, 4)
        """
        params, key = variables["params"], (rngs or {}).get("dropout")
        self._require_own(flat(params))

        def run(base: Any, key: jax.Array | None, *args, **kwargs) -> Any:
            model = self._plain(flat(base), key)
            return method(model, *args, **kwargs) if callable(method) else getattr(model, method)(*args, **kwargs)

        own = None if key is None else jax.random.fold_in(key, _ADAPTER)
        return lora(run, dropout=self.config.dropout, key=own)(params, key, *args, **kwargs)


_ADAPTER = 0x10BA  # sets the adapters' stream apart from the model's own


def _has_kernel(leaves: Mapping[str, Any], module: str) -> bool:
    try:
        kernel_path(leaves, module)
    except TreeError:
        return False
    return True
