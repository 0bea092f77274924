"""What makes the suite's thousands of tiny programs cheaper, and changes none of them; and how to run fewer."""

import contextlib
import functools
import gc
import zlib
from collections.abc import Sequence
from typing import Any


def save_time_and_memory() -> None:
    """One compiler context for all programs: one of its own for each is a tenth of the time and half of the memory. And Python's collector
    at its usual thresholds goes over the million objects that JAX keeps again and again: another tenth."""
    with contextlib.suppress(
        ImportError, AttributeError
    ):  # JAX's own affair: where it is otherwise, the suite only takes longer
        from jax._src.interpreters import mlir

        mlir.make_ir_context = functools.cache(mlir.make_ir_context)
    gc.set_threshold(100_000, 50, 100)


def one_case(items: Sequence[Any]) -> list[Any]:
    """Of each test function one of its cases, in their order: another for each function, and the same in every run."""
    cases: dict[str, list[Any]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    return [of_one[zlib.crc32(name.encode()) % len(of_one)] for name, of_one in cases.items()]
