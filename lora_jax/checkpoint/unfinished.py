"""What orbax has begun to read beside the array that failed: whenever Python found it, it would print a traceback of each."""

import contextlib
import gc
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def dropped() -> Iterator[None]:
    """In here reads that are broken off end without a word: asyncio's of an error that nobody fetched, of a loop that is closed.

    >>> with dropped():
    ...     pass
    """
    log, hook = logging.getLogger("asyncio"), sys.unraisablehook

    def told(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, RuntimeError):
            hook(unraisable)

    was_disabled, log.disabled, sys.unraisablehook = log.disabled, True, told
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
            yield
    finally:
        log.disabled, sys.unraisablehook = was_disabled, hook


def drop(error: BaseException) -> None:
    """Lets go of all that an error holds, and of what it began.

    >>> drop(ValueError())
    """
    traceback.clear_frames(error.__traceback__)
    error.__traceback__ = error.__context__ = error.__cause__ = None
    gc.collect()
