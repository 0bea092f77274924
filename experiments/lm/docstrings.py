"""English that every machine has: the docstrings of the installed packages, and Python's own help topics.

Sources are parsed, never imported.
"""

import ast
import functools
import importlib.util
import inspect
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from experiments.data.questions import Pair, Pairs

PACKAGES = ("numpy", "scipy", "jax", "flax", "optax", "chex", "orbax", "matplotlib", "tensorflow_datasets", "absl")
LEAST = 40  # characters; shorter ones are labels
SENTENCE = re.compile(r"(.+?[.!?])(\s|$)", re.DOTALL)


class Docstring(NamedTuple):
    symbol: str  # dotted, as one would look it up
    text: str  # cleaned of indentation


@functools.cache  # thousands of files, which both the text and the questions are taken from
def of_packages(packages: tuple[str, ...]) -> tuple[Docstring, ...]:
    """Every docstring of the packages that are installed, in the order of their files; the same text comes once."""
    return tuple(_of_packages(packages))


def _of_packages(packages: tuple[str, ...]) -> Iterator[Docstring]:
    seen: set[str] = set()
    for root in filter(None, map(_root, packages)):
        for file in sorted(root.rglob("*.py")):
            if "tests" in file.parts or "testing" in file.parts:
                continue
            for found in _of_file(file, ".".join([root.name, *file.relative_to(root).with_suffix("").parts])):
                if len(found.text) >= LEAST and found.text not in seen:
                    seen.add(found.text)
                    yield found


def _root(package: str) -> pathlib.Path | None:
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        return None
    places = list(spec.submodule_search_locations or []) if spec else []
    return pathlib.Path(places[0]) if places else None


def _of_file(file: pathlib.Path, module: str) -> Iterator[Docstring]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return
    yield from _of_node(tree, module.removesuffix(".__init__"))


def _of_node(node: ast.AST, symbol: str) -> Iterator[Docstring]:
    text = ast.get_docstring(node)
    if text:
        yield Docstring(symbol, text)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield from _of_node(child, f"{symbol}.{child.name}")
        elif isinstance(child, ast.Expr) and isinstance(child.value, ast.Call):
            yield from _of_added(child.value)


def _of_added(call: ast.Call) -> Iterator[Docstring]:
    """numpy documents what it has in C by `add_newdoc(place, name, text)`; methods as (name, text)."""
    if getattr(call.func, "id", "") != "add_newdoc" or len(call.args) != 3:
        return
    try:
        place, name, text = map(ast.literal_eval, call.args)
    except ValueError:
        return
    if isinstance(text, tuple):
        name, text = f"{name}.{text[0]}", text[1]
    if isinstance(text, str):
        yield Docstring(f"{place}.{name}", inspect.cleandoc(text))


def topics() -> list[str]:
    """Python's language reference, as `help()` shows it."""
    from pydoc_data.topics import topics

    return [text for _, text in sorted(topics.items())]


def documents() -> list[str]:
    """All of it, one text a docstring."""
    return [*(found.text for found in of_packages(PACKAGES)), *topics()]


def pairs(packages: tuple[str, ...] = PACKAGES) -> list[Pair]:
    """What is `symbol`? - the first sentence of its docstring; symbols that begin with an underscore are left out."""
    found = []
    for symbol, text in of_packages(packages):
        first = SENTENCE.match(" ".join(text.split("\n\n")[0].split()))
        name = symbol.rpartition(".")[2]
        if first and not name.startswith("_") and len(first[1]) >= LEAST // 2:
            found.append(Pair(f"What is {symbol}?", first[1]))
    return found


def questions() -> Pairs:
    """`pairs` of all packages, as a file's would come."""
    return Pairs(tuple(pairs()), {}, "docstrings of installed packages")
