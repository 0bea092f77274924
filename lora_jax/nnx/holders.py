"""Where the adapters lie in an NNX model: in the module that holds their kernel, under the names that the tree of parameters has.

The leaves of a kernel called `kernel` or `embedding` are attributes beside it, those of a `w` with the roles `oio` lie in a dict `w:oio`. The module
says which kernels it has adapters of in `lora_kernels`, and its class is one of `classes.adapted`. The modules around it have such a class alone.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from flax import nnx

from lora_jax import axes
from lora_jax.leaves import NAMES, TRAINABLE, Adapter, as_leaves, owner
from lora_jax.nnx.trees import named
from lora_jax.nnx.variables import LoRAParam, LoRASetting

Path = tuple[Any, ...]
KERNELS, DROPOUT = "lora_kernels", "lora_dropout"  # attributes of such a module
KIND = "lora_kind"  # and of its class: what it is a subclass of


class AdapterDropout(nnx.Dropout):
    """The rate of adapter dropout, its random stream, and whether it is on, which follows `model.train()` and `model.eval()`."""


_PARTS = (LoRAParam, LoRASetting, AdapterDropout)


class Held(NamedTuple):
    """An adapter, and the path of its kernel from where one looks."""

    kernel: Path
    roles: str  # "" where the adapter lies beside the kernel
    adapter: Adapter


def place(kernel: str, roles: str) -> str:
    """Where the adapter of a kernel lies in a tree, with the slash.

    >>> place("layer/w", "oio"), place("layer/kernel", "")
    ('layer/w:oio/', 'layer/')
    """
    return f"{kernel}{axes.MARK}{roles}/" if roles else owner(kernel)


def _dict_name(kernel: Path, roles: str) -> str:
    return place(named(kernel), roles).rstrip("/")


def is_module(value: Any) -> bool:
    """Whether it may have methods that use parameters: lists and dicts of NNX have none."""
    return isinstance(value, nnx.Pytree) and not isinstance(value, (nnx.List, nnx.Dict))


def own_variables(module: nnx.Pytree) -> dict[Path, nnx.Variable]:
    """Those that lie in the module itself, in its lists and dicts too, and in no module inside of it."""
    found = list(nnx.iter_graph(module))
    inner = {path for path, value in found if path and is_module(value)}
    return {
        path: value
        for path, value in found
        if isinstance(value, nnx.Variable) and not any(path[:k] in inner for k in range(1, len(path)))
    }


def variables(adapter: Adapter) -> dict[str, nnx.Variable]:
    """The leaves of an adapter, for `put`: the same ones for all modules that share its kernel."""
    leaves = as_leaves(adapter)
    return {name: (LoRAParam if name in TRAINABLE else LoRASetting)(leaf) for name, leaf in leaves.items()}


def put(module: nnx.Pytree, kernel: Path, roles: str, leaves: dict[str, nnx.Variable]) -> None:
    """Puts an adapter of a kernel into the module that holds it."""
    for name, value in ({_dict_name(kernel, roles): nnx.Dict(leaves)} if roles else leaves).items():
        setattr(module, name, value)
    setattr(module, KERNELS, (*getattr(module, KERNELS, ()), (kernel, roles)))


def held(root: Any) -> list[Held]:
    """The adapters in a module and what is in it; a kernel that several modules share comes once, under its first path."""
    found, seen = list(nnx.iter_graph(root)), set()
    paths = {id(value): path for path, value in found if isinstance(value, nnx.Variable)}
    adapters = []
    for _, module in found:
        for kernel, roles in _kernels(module):
            variable = at(module, kernel)
            if (id(variable), roles) not in seen:
                seen.add((id(variable), roles))
                adapters.append(Held(paths[id(variable)], roles, _adapter(module, kernel, roles)))
    return adapters


def at(module: Any, path: Path) -> Any:
    """What lies at a path of a module."""
    for name in path:
        module = vars(module)[name] if is_module(module) else module[name]
    return module


def _kernels(module: Any) -> tuple[tuple[Path, str], ...]:
    return vars(module).get(KERNELS, ()) if is_module(module) else ()


def _adapter(module: nnx.Pytree, kernel: Path, roles: str) -> Adapter:
    own = vars(module)
    leaves = dict(own[_dict_name(kernel, roles)].items()) if roles else own
    return Adapter(*(leaves[name].get_value() if name in leaves else None for name in NAMES))


def dropouts(root: Any) -> list[AdapterDropout]:
    """Those of the adapters in a module."""
    return [value for _, value in nnx.iter_graph(root) if isinstance(value, AdapterDropout)]


def streamed(rate: float, key: jax.Array | None, stack: tuple[int, ...], is_on: bool) -> AdapterDropout:
    """Adapter dropout of a module, or of each of a stack of modules, which nnx.scan will take apart."""
    made = AdapterDropout(rate, deterministic=not is_on)
    if key is not None:
        made.rngs = nnx.RngStream(jax.random.split(key, stack) if stack else key, tag="dropout")
    return made


@contextlib.contextmanager
def bare(root: Any) -> Iterator[None]:
    """Within it the modules hold no adapter, and are of their own classes."""
    taken = []
    for _, module in list(nnx.iter_graph(root)):
        if is_module(module) and KIND in vars(type(module)):
            own, marked = vars(module), {_dict_name(*site) for site in _kernels(module)}
            names = [name for name, value in own.items() if name in (*marked, KERNELS) or isinstance(value, _PARTS)]
            taken.append((module, type(module), {name: own.pop(name) for name in names}))
            module.__class__ = vars(type(module))[KIND]
    try:
        yield
    finally:
        for module, kind, attributes in taken:
            module.__class__ = kind
            vars(module).update(attributes)
