"""Classes of modules with adapters: each method runs the module's own, as a function of its parameters, through `lora_jax.lora`.

A call works on a bare copy of the module (no adapters in it, its own classes) as jax.jit would: traced once, and what the call changes (random
counts, caches, statistics, attributes) is written back. Calls inside of it are the model's own. So the outermost call sees every product, wherever
the parameters are read: by hand, tied, in a scan over layers.
"""

import contextlib
import copyreg
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from flax import nnx

from lora_jax.errors import TargetError
from lora_jax.leaves import as_leaves
from lora_jax.mode import is_training
from lora_jax.nnx import holders
from lora_jax.nnx.holders import KIND, Held, bare, held, place
from lora_jax.nnx.trees import named
from lora_jax.products.function import lora
from lora_jax.products.marked import Marked
from lora_jax.tree import flat, nested

_TAG = "lora_jax"


@functools.cache
def adapted(kind: type) -> type:
    """The subclass of a module's class whose methods add the side paths of the adapters in the module."""

    def fill(body: dict[str, Any]) -> None:
        body |= {name: _adapted_method(method, name) for name, method in _methods(kind).items()}
        body |= {KIND: kind, "__repr__": _told_whole, "__module__": kind.__module__, "__doc__": kind.__doc__}

    own = {"metaclass": _metaclass(type(kind)), "pytree": kind._pytree__is_pytree}
    return types.new_class(f"Adapted{kind.__name__}", (kind,), own, fill)


def _told_whole(module: nnx.Pytree) -> str:
    """One line; `print` and `nnx.display` show the whole model."""
    adapters = held(module)
    ranks = sorted({one.adapter.a.shape[-1] for one in adapters})
    places = [named(one.kernel) for one in adapters]
    shown = ", ".join(places[:3]) + (" ..." if len(places) > 3 else "")
    rank = "-".join(map(str, ranks[:1] + ranks[-1:] if len(ranks) > 1 else ranks))
    return f"{type(module).__name__}({vars(type(module))[KIND].__name__} with {len(places)} adapters of rank {rank}: {shown})"


@functools.cache
def _metaclass(kind: type) -> type:
    """Classes of it are pickled as what they are made of: no module has them under a name."""
    made = type("AdaptedClass", (kind,), {})
    copyreg.pickle(made, lambda cls: (adapted, (vars(cls)[KIND],)))
    return made


def _methods(kind: type) -> dict[str, Any]:
    """The functions of a class that a call may go through: all that are not of nnx.Module itself, and `__call__` of the names with underscores."""
    return {
        name: found
        for name in dir(kind)
        if name == "__call__" or not (name.startswith("__") or hasattr(nnx.Module, name))
        for found in [_found(kind, name)]
        if callable(found) and hasattr(found, "__get__") and not isinstance(found, (type, staticmethod, classmethod))
    }


def _found(kind: type, name: str) -> Any:
    return next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)


def _adapted_method(method: Any, name: str) -> Callable:
    @functools.wraps(method)
    def call(self, *args, **kwargs):
        return _called(method, name, self, args, kwargs)

    return call


def _called(method: Any, name: str, module: nnx.Pytree, args: tuple, kwargs: Mapping[str, Any]) -> Any:
    try:
        return _called_on_copy(method, name, module, args, kwargs)
    except _HandsOut:
        return method.__get__(module, type(module))(*args, **kwargs)


def _called_on_copy(method: Any, name: str, module: nnx.Pytree, args: tuple, kwargs: Mapping[str, Any]) -> Any:
    leaves, structure = jax.tree.flatten((args, dict(kwargs)), is_leaf=_is_nnx)
    objects = (module, tuple(leaf for leaf in leaves if _is_nnx(leaf)))
    adapters = held(objects)
    if not adapters:
        return method.__get__(module, type(module))(*args, **kwargs)
    rate, key = _dropout(objects) if is_training(module, method, args, kwargs) else (0.0, None)
    with nnx.update_context(_TAG):
        call = _Call(objects)
        own = {adapter.kernel: _name(adapter.kernel) for adapter in adapters}

        def run(kernels: dict[str, Any], others: list[Any], inputs: list[Any]) -> Any:
            given = dict(zip((path for path in call.values if path not in own), others, strict=True))
            given |= {path: flat(kernels)[name] for path, name in own.items()}
            with call.copied(given) as (copy, nodes):
                of_nodes, of_inputs = iter(nodes), iter(inputs)
                filled = [next(of_nodes) if _is_nnx(leaf) else next(of_inputs) for leaf in leaves]
                args, kwargs = jax.tree.unflatten(structure, filled)
                result = method.__get__(copy, type(copy))(*args, **kwargs)
                _require_no_objects(result, name)
            return result, call.changes(given)

        others = [value for path, value in call.values.items() if path not in own]
        inputs = [leaf for leaf in leaves if not _is_nnx(leaf)]
        follow = lora(run, dropout=rate, key=key, has_state=True)
        result, changes = follow(_params(adapters, call.values), others, inputs)
        call.write([_own(path, value, own, name) for path, value in zip(call.changed, changes, strict=True)])
    return result


class _HandsOut(Exception):
    """A method gives modules of the model and nothing else."""


def _require_no_objects(result: Any, name: str) -> None:
    """A copy's modules would be no part of the model.

    Raises:
      _HandsOut: where the result is modules alone: they are to be the model's own.
      TargetError: where it is a module beside arrays, or a generator, whose body runs when the call is over.
    """
    if inspect.isgenerator(result):
        raise TargetError(_told(name, "a generator"))
    leaves = jax.tree.leaves(result, is_leaf=_is_nnx)
    modules = [leaf for leaf in leaves if _is_nnx(leaf)]
    if modules and any(isinstance(leaf, jax.Array) for leaf in leaves if not _is_nnx(leaf)):
        raise TargetError(_told(name, f"a {type(modules[0]).__name__} beside arrays"))
    if modules:
        raise _HandsOut


def _told(name: str, what: str) -> str:
    return (
        f"{name} gives {what}: with adapters it runs on a copy, which would not be the model; call it through lora_jax.nnx.LoRA.apply, or let it "
        "give arrays alone."
    )


def _name(path: tuple) -> str:
    """What messages call a parameter: its path in the module, or in what the call is given."""
    return named(path[1:] if path[0] == 0 else ("args", *path[1:]))


def _is_nnx(value: Any) -> bool:
    return isinstance(value, (nnx.Pytree, nnx.Variable))


def _params(adapters: list[Held], values: Mapping[tuple, Any]) -> dict[str, Any]:
    """The adapted kernels and their adapters, as `lora` takes them."""
    leaves: dict[str, Any] = {}
    for one in adapters:
        name, kernel = _name(one.kernel), values[one.kernel]
        leaves |= {name: kernel, **as_leaves(one.adapter, place(name, _roles(one.roles, kernel.ndim)))}
    return nested(leaves)


def _roles(roles: str, axes: int) -> str:
    """Of a kernel of so many axes: of a stack, a scan has taken one layer, or a vmap has made one of many."""
    return "s" * (axes - len(roles)) + roles[max(len(roles) - axes, 0) :] if roles else ""


def _dropout(objects: tuple) -> tuple[float, jax.Array | None]:
    """(rate, key) of adapter dropout in this call; the mode of the model decides whether there is one."""
    on = [dropout for dropout in holders.dropouts(objects) if not dropout.deterministic]
    if not on:
        return 0.0, None
    stream = on[0].rngs
    if stream is None:
        raise TargetError(
            f"adapter dropout is {on[0].rate} and the model is in training mode, but `inject` got no key for it: "
            'inject(params, rngs={"dropout": key}), or call model.eval().'
        )
    key, count = stream.key[...].reshape(-1)[0], stream.count[...].reshape(-1)[0]
    stream.count[...] += 1
    return float(on[0].rate), jax.random.fold_in(key, count)


def _own(path: tuple, value: Any, own: Mapping[tuple, str], method: str) -> Any:
    """What a call left in a variable; of an adapted one the kernel alone."""
    if isinstance(value, Marked):
        return value.value
    if path in own:
        raise TargetError(
            f"{method} changes {own[path]}, which has an adapter, or hands it on through an operation without a rule; change the "
            "parameter before `inject`, or leave it out of the targets."
        )
    return value


class _Call:
    """A module and the NNX objects that it is given, taken apart for one call and put together again after it.

    `values` are those of all variables and arrays in them, by path.
    """

    def __init__(self, objects: tuple):
        self._objects = objects
        with nnx.split_context(_TAG) as context:
            self._graph, state = context.split(self._objects)
        self._before = nnx.to_flat_state(state)
        self.values = {path: _value(leaf) for path, leaf in self._before}

    @contextlib.contextmanager
    def copied(self, given: Mapping[tuple, Any]) -> Iterator[Any]:
        """Copies of them with these values, bare; what the call makes of them is kept for `changed` and `write`."""
        state = nnx.from_flat_state([(path, _filled(leaf, given[path])) for path, leaf in self._before])
        with nnx.merge_context(_TAG, inner=True) as context:
            copies = context.merge(self._graph, state)
        with bare(copies):
            yield copies
        with nnx.split_context(_TAG) as context:
            self._graph_after, state = context.split(copies)
        self._after = nnx.to_flat_state(state)

    def changes(self, given: Mapping[tuple, Any]) -> list[Any]:
        """The values that were not given, of the paths `changed`; other arrays than the given ones, though they may be equal."""
        after = {path: _value(leaf) for path, leaf in self._after}
        self.changed = [path for path, value in after.items() if path not in given or value is not given[path]]
        return [after[path] for path in self.changed]

    def write(self, changes: list[Any]) -> None:
        """Into the objects themselves; where the call made or removed something, or set an attribute, they are put together anew, in place."""
        new = dict(zip(self.changed, changes, strict=True))
        found = dict(nnx.iter_graph(self._objects))
        if self._graph_after.with_no_outer_index() == self._graph:
            for path, value in new.items():
                _write(found, path, value)
            return
        for path in self.values:
            _write(found, path, self.values[path])  # nothing new: only to be refused where they are another trace's
        values = {**self.values, **new}
        state = nnx.from_flat_state([(path, _filled(leaf, values[path])) for path, leaf in self._after])
        with nnx.merge_context(_TAG, inner=False) as context:
            context.merge(self._graph_after, state)


def _value(leaf: Any) -> Any:
    return leaf.get_raw_value() if isinstance(leaf, nnx.Variable) else leaf


def _filled(leaf: Any, value: Any) -> Any:
    """The variable with this value; an array that is no variable gives way to it."""
    return leaf.replace(value) if isinstance(leaf, nnx.Variable) else value


def _write(found: Mapping[tuple, Any], path: tuple, value: Any) -> None:
    """Where it is another trace's, NNX refuses."""
    holder = found[path[:-1]]
    if isinstance(found[path], nnx.Variable):
        found[path].set_raw_value(value)
    elif holders.is_module(holder):
        setattr(holder, path[-1], value)
    else:
        holder[path[-1]] = value
