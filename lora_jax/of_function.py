"""LoRA for a function of a parameter tree, with the interface of the Flax wrappers: what takes the one takes the other."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from lora_jax import known, products
from lora_jax.config import LoRAConfig
from lora_jax.errors import ConfigError, TreeError
from lora_jax.intake import params_in, tree_of
from lora_jax.mode import is_training
from lora_jax.products.function import lora
from lora_jax.products.trees import ARRAYS, named
from lora_jax.tree import is_box, unboxed


@dataclasses.dataclass(frozen=True)
class FunctionLoRA:
    """`base_module(params, *args)` with low-rank adapters (Hu et al. 2021, arXiv:2106.09685, section 4); `lora_jax.LoRA(fn, config)` makes it.

    Args:
      base_module: any JAX function of a parameter tree.
      like: a tree of the structure that the function takes, where that is no nested dict (a list, an Equinox module); parameters are then
        nested dicts whose paths are those of that tree's arrays.

    >>> import jax.numpy as jnp
    >>> import lora_jax
    >>> def fn(params, x):
    ...     return jnp.tanh(x @ params["w"])
    >>> model = lora_jax.LoRA(fn, LoRAConfig(rank=2, targets="w"))
    >>> variables = model.init(jax.random.key(0), {"w": jnp.ones((3, 4))}, jnp.ones((1, 3)))
    >>> sorted(variables["params"]), model.apply(variables, jnp.ones((1, 3))).shape
    (['w', 'w:io'], (1, 4))
    """

    base_module: Callable
    config: LoRAConfig
    like: Any = None

    def __post_init__(self):
        if named(self.base_module):
            raise ConfigError(
                f"this {type(self.base_module).__name__} holds its own arrays; pass a function of them, LoRA(lambda params, *args: "
                "params(*args), config, like=it), and it as the parameters."
            )

    def __repr__(self) -> str:
        fn = self.base_module
        return f"LoRA({getattr(fn, '__qualname__', type(fn).__name__)}, {self.config})"

    def with_config(self, config: LoRAConfig) -> "FunctionLoRA":
        """The same function under another config."""
        return dataclasses.replace(self, config=config)

    def init(self, key: jax.Array, base_params: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """`{"params": ...}`: the parameters and fresh adapters, for an example input.

        Raises:
          TargetError: when a pattern of the config selects no leaf that a product reads; it names the closest paths.
        """
        return {"params": self.onto(key, base_params, *args, **kwargs)}

    def onto(self, key: jax.Array, base_params: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What `lora_jax.adapt` gives; call that."""
        if self.like is None:
            tree_of(base_params, "adapt: base_params")
            _require_plain(base_params)
        known.remember(named(base_params))
        return products.adapt(key, base_params, self._unboxing, self.config, *args, **kwargs)

    def _unboxing(self, params: Any, *args: Any, **kwargs: Any) -> Any:
        """The function, of plain arrays: what is quantised, or in a box of Flax's, is opened inside."""
        return self.base_module(unboxed(params), *args, **kwargs)

    def apply(
        self, variables: Mapping[str, Any], *args: Any, rngs: Mapping[str, jax.Array] | None = None, **kwargs: Any
    ) -> Any:
        """What the function gives of `variables["params"]`; adapter dropout is active when `rngs` has a key "dropout" and the function is in
        training, as its own argument `deterministic`, `train` or the like says, if it has one.

        Raises:
          TreeError: for an adapter that is not whole, has no kernel, or is of another kernel's shape.
        """
        params, key = params_in(variables, "LoRA.apply"), (rngs or {}).get("dropout")
        if not is_training(params, self.base_module, args, kwargs):
            key = None
        adapted = lora(self._unboxing, like=self.like, dropout=self.config.dropout, key=key)
        return adapted(params, *args, **kwargs)


def _require_plain(params: Any, path: str = "") -> None:
    """Raises TreeError for what a nested dict of arrays could not give back as it is."""
    where = path or "the tree"
    if isinstance(params, Mapping):
        odd = next((key for key in params if not isinstance(key, str)), None)
        if odd is not None or not params:
            what = "is empty" if not params else f"has the key {odd!r}, which is no string"
            raise TreeError(
                f"{where} {what}: the function would get another tree than you gave; pass yours as LoRA(fn, config, like=params)."
            )
        for key, value in params.items():
            _require_plain(value, f"{path}/{key}".lstrip("/"))
    elif not isinstance(params, ARRAYS) and not is_box(params):
        raise TreeError(
            f"{where} is {type(params).__name__}, no dict and no array: the function would get another tree than you gave; pass yours as "
            "LoRA(fn, config, like=params), or let the function close over what is no parameter."
        )
