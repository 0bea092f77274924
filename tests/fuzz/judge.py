"""The one question that is asked of every input: is it refused by a sentence, or is the result what it must be?"""

import collections
import contextlib
import os
import random
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import jax
import numpy as np

from experiments.common.errors import UserError
from lora_jax.errors import LoRAError

TOTAL = int(os.environ.get("FUZZ_INPUTS", 500))
IS_SUITE = "FUZZ_INPUTS" not in os.environ
SEED = int(os.environ.get("FUZZ_SEED", random.randrange(2**32)))
LONGEST_S, LONGEST = 5.0, 2000  # of an input; characters of a sentence
REPORT = os.environ.get("FUZZ_REPORT", "/dev/stderr")
SENTENCES = (LoRAError, UserError)

counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
findings: dict[str, dict[str, str]] = collections.defaultdict(dict)  # target -> kind -> the first of it


class Finding(AssertionError):
    """An input that is wrong in silence, ends in a traceback, or hangs."""


def fuzzed(share: float, **strategies: Any) -> Callable:
    """A test of `share` of all inputs, drawn from the strategies."""

    def decorate(test: Callable) -> Callable:
        settings = hypothesis.settings(
            max_examples=max(1, round(share * TOTAL)),
            deadline=None,
            database=None,
            derandomize=IS_SUITE,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate] + [hypothesis.Phase.shrink] * IS_SUITE,
        )
        given = settings(hypothesis.given(**strategies)(test))
        return given if IS_SUITE else hypothesis.seed(SEED)(given)

    return decorate


def judged(
    target: str,
    call: Callable[[], Any],
    expected: Any = None,
    *,
    same: Callable[[Any, Any], bool] | None = None,
    refusals=SENTENCES,
    of: Any = None,
) -> str:
    """What became of an input, "refused" or "same"; Finding where it is neither.

    Args:
      call: what is asked.
      expected: the result that it must have, where it has one.
      same: compares the two; bit for bit by default.
      of: the input, for the message.
    """
    began = time.monotonic()
    try:
        with _told_of_hangs(), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="orbax|etils|jax")
            outcome = _outcome(call, expected, same or identical, refusals)
    except TimeoutError:
        outcome = f"hangs: over {LONGEST_S} s"
    if time.monotonic() - began > LONGEST_S and "hangs" not in outcome:
        outcome = f"hangs: {outcome} after {time.monotonic() - began:.1f} s"
    odd = [str(w.message) for w in warned if w.category is not UserWarning or not is_sentence(str(w.message))]
    if odd and outcome in ("refused", "same"):
        outcome = f"warns: {odd[0]}"
    is_good = outcome in ("refused", "same")
    counts[target][outcome if is_good else "finding"] += 1
    if not is_good:
        kind = outcome.split("\n")[0][:60]
        findings[target].setdefault(kind, f"{outcome}\ninput: {of!r:.1500}")
        if IS_SUITE:
            raise Finding(f"{outcome}\ninput: {of!r:.3000}")
    return outcome


def _outcome(call, expected, same, refusals) -> str:
    try:
        found = call()
    except refusals as error:
        said = str(error)
        return "refused" if is_sentence(said) else f"no sentence: {type(error).__name__}: {said!r:.600} ({len(said)})"
    except TimeoutError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        ours = [
            f
            for f in traceback.extract_tb(error.__traceback__)
            if "/lora_jax/" in f.filename or "/experiments/" in f.filename
        ]
        at = ours[-1] if ours else where
        return f"traceback: {type(error).__name__} at {at.filename.split('/')[-1]}:{at.lineno}\n{str(error)[:300]}"
    return "same" if same(found, expected) else f"silent: another result\n{found!r:.400}\ninstead of\n{expected!r:.400}"


def is_sentence(text: str) -> bool:
    """Whether a user can read it: one line, not too long, nothing that steers a terminal."""
    return bool(text.strip()) and len(text) <= LONGEST and text.isprintable()


def identical(found: Any, expected: Any) -> bool:
    """Whether two results are the same bit for bit: trees, arrays, and what has an ==."""
    one, other = jax.tree_util.tree_flatten(found), jax.tree_util.tree_flatten(expected)
    return one[1] == other[1] and all(map(_identical, one[0], other[0]))


def _identical(one: Any, other: Any) -> bool:
    if hasattr(one, "dtype") and hasattr(other, "dtype") and not isinstance(one, np.generic):
        one, other = np.asarray(one), np.asarray(other)
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return type(one) is type(other) and (one == other or (one != one and other != other))


@contextlib.contextmanager
def _told_of_hangs() -> Iterator[None]:
    """Breaks off what takes far too long, where that can be done."""

    def stop(*_):
        raise TimeoutError

    old = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 2 * LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def report() -> str:
    """A line for each target, and the findings."""
    lines = [f"{target}: {sum(c.values())} inputs, {dict(sorted(c.items()))}" for target, c in sorted(counts.items())]
    lines += [f"--- {target}\n{text}" for target, kinds in findings.items() for text in kinds.values()]
    return "\n".join(lines)
