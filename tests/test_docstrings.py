"""Do the examples in the docstrings run, and does every public name have one sentence to say?"""

import doctest
import importlib
import inspect
import pkgutil
import typing

import pytest

import lora_jax
import lora_jax.nnx

pytestmark = pytest.mark.usefixtures("quick_compile")
MODULES = ["lora_jax", *(module.name for module in pkgutil.walk_packages(lora_jax.__path__, "lora_jax."))]
WITH_EXAMPLES = {
    "adapter", "adapters", "bert", "config", "errors", "initializers", "lowrank", "merge", "module",
    "members", "optim", "partition", "report", "stacks", "targets", "trainer", "training", "tree",
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 0 or name.rpartition(".")[2] not in WITH_EXAMPLES


def own_public_names(module) -> dict[str, typing.Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    }


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_a_docstring(name):
    module = importlib.import_module(name)
    assert module.__doc__
    undocumented = [name for name, value in own_public_names(module).items() if not inspect.getdoc(value)]
    assert undocumented == []


def front_door() -> dict[str, typing.Any]:
    """Every function that a user reaches from `lora_jax` or `lora_jax.nnx`, and the classes that do something."""
    found = {"nnx.LoRA": lora_jax.nnx.LoRA}
    for name in lora_jax.__all__:
        value = getattr(lora_jax, name)
        own = [
            n
            for n, v in vars(value).items()
            if getattr(v, "__module__", "").startswith(getattr(value, "__name__", "?"))
        ]
        inner = {f"{name}.{n}": getattr(value, n) for n in own}
        found |= inner if inspect.ismodule(value) else {name: value}
    return {
        name: value
        for name, value in found.items()
        if not name.rpartition(".")[2].startswith("_")
        and (inspect.isfunction(value) or (inspect.isclass(value) and not issubclass(value, Exception)))
    }


WITHOUT_EXAMPLES = {  # what others make, and the abstract
    *(
        "initializers.Initializer",
        "peft.Loaded",
        "quantised.Maxima",
        "quantised.Quantised",
        "sweep.SweepState",
        "training.TrainState",
    ),
}


def test_every_function_at_the_front_door_has_an_example():
    bare = {name for name, value in front_door().items() if ">>>" not in (inspect.getdoc(value) or "")}
    assert bare - WITHOUT_EXAMPLES == set()


def methods(value: type) -> dict[str, typing.Any]:
    """The public methods that a class has of itself; those that Flax calls, and plain counts, aside."""
    return {
        name: v
        for name, v in vars(value).items()
        if inspect.isfunction(v) and not name.startswith("_") and name != "setup"
    }


def test_every_method_at_the_front_door_has_an_example():
    """Of what others make, the makers have them."""
    classes = {
        name: value for name, value in front_door().items() if inspect.isclass(value) and name not in WITHOUT_EXAMPLES
    }
    bare = {
        f"{name}.{method}"
        for name, value in classes.items()
        for method, function in methods(value).items()
        if ">>>" not in (inspect.getdoc(function) or "")
    }
    assert len(classes) > 5 and bare == set()


def test_everything_at_the_front_door_is_there():
    assert all(hasattr(lora_jax, name) for name in lora_jax.__all__)
    assert sorted(lora_jax.__all__) == lora_jax.__all__
