"""What makes the suite's thousands of tiny programs cheaper, and changes none of them; and how to run fewer."""

import contextlib
import functools
import gc
import zlib
from collections.abc import Sequence
from typing import Any

# Where each case is a page, an entry, a room or an edit of its own, not a row of a table.
WHOLE = (
    "tests/docs/", "tests/experiments/", "tests/test_build_notes.py", "tests/test_docstrings.py", "tests/test_house.py", "tests/test_mutants.py",
    "tests/test_notebooks.py", "tests/test_package.py",
)  # fmt: skip


def save_time_and_memory() -> None:
    """One compiler context for all programs: one of its own for each is a tenth of the time and half of the memory. And Python's collector
    at its usual thresholds goes over the million objects that JAX keeps again and again: another tenth."""
    with contextlib.suppress(
        ImportError, AttributeError
    ):  # JAX's own affair: where it is otherwise, the suite only takes longer
        from jax._src.interpreters import mlir

        mlir.make_ir_context = functools.cache(mlir.make_ir_context)
    gc.set_threshold(100_000, 50, 100)


def few_cases(items: Sequence[Any], most: int) -> list[Any]:
    """Of each test function of the library no more cases than that, evenly over its table and beginning elsewhere for each function; the same in
    every run. What one asks for lies between what two are. What lies in WHOLE keeps all."""
    cases: dict[str, list[Any]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    return [item for name, of_one in cases.items() for item in _few(name, of_one, most)]


def _few(name: str, items: list[Any], most: int) -> list[Any]:
    count = len(items)
    if count <= most or name.startswith(WHOLE):
        return items
    first = zlib.crc32(name.encode())
    return [items[(first + (2 * k + 1) * count // (2 * most)) % count] for k in range(most)]
