"""What makes the suite's thousands of tiny programs cheaper, and changes none of them."""

import contextlib
import functools
import gc


def save_time_and_memory() -> None:
    """One compiler context for all programs: one of its own for each is a tenth of the time and half of the memory. And Python's collector
    at its usual thresholds goes over the million objects that JAX keeps again and again: another tenth."""
    with contextlib.suppress(
        ImportError, AttributeError
    ):  # JAX's own affair: where it is otherwise, the suite only takes longer
        from jax._src.interpreters import mlir

        mlir.make_ir_context = functools.cache(mlir.make_ir_context)
    gc.set_threshold(100_000, 50, 100)
