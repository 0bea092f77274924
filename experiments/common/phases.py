"""A phase of training: blocks of steps with a progress bar, a record after each, and resumption after an interruption."""

import contextlib
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments.common.errors import UserError
from experiments.common.recording import RunFolder, slug
from lora_jax import checkpoint
from lora_jax.errors import CheckpointError
from lora_jax.sweep import Sweep, SweepState

SAVE_EVERY_S = 15.0  # a save of small states takes 0.2 s


def train(
    folder: RunFolder,
    phase: str,
    sweep: Sweep,
    state: SweepState,
    shared: Any,
    data: Any,
    *,
    order: Callable[[int], jax.Array],
    blocks: int,
    follow: Callable[[SweepState], dict[str, jax.Array]] = lambda state: {},
) -> tuple[SweepState, list[dict[str, np.ndarray]]]:
    """`train_blocks` where a block is one call of `sweep.run`.

    Args:
      order: block -> indices [S, B] or [M, S, B]; a function of the block alone, so a resumed run sees the same data.
    """

    def advance(state: SweepState, block: int):
        state, (losses, _) = sweep.run(state, shared, data, order(block))
        return state, {"loss": losses.mean(axis=1)}

    return train_blocks(folder, phase, state, shared, advance, blocks=blocks, follow=follow)


def train_blocks(
    folder: RunFolder,
    phase: str,
    state: Any,
    shared: Any,
    advance: Callable[[Any, int], tuple[Any, dict[str, jax.Array]]],
    *,
    blocks: int,
    follow: Callable[[Any], dict[str, jax.Array]] = lambda state: {},
) -> tuple[Any, list[dict[str, np.ndarray]]]:
    """Runs `blocks` calls of `advance`, from the last save if there is one.

    Args:
      state: before the first step; its structure is what a save is read into.
      shared: the frozen tree that saves are bound to.
      advance: (state, block) -> (state, values to record); what it does depends on these two alone.
      follow: measured before the first block and after each one; recorded in metrics.jsonl.

    Returns:
      The final state, and the history: one dict per measurement, arrays [M, ...], the one before training first.
    """
    saves = folder.path / "phases" / slug(phase)
    state, done = _resume(folder, phase, saves, state, shared)
    if not done:
        _measure(folder, phase, 0, follow(state))
    saved_at = time.monotonic()
    started = time.monotonic()
    with tqdm(total=blocks, initial=done, desc=phase, unit="block", leave=False, disable=None) as bar:
        for block in range(done, blocks):
            state, values = advance(state, block)
            _measure(folder, phase, block + 1, {**values, **follow(state)})
            bar.update()
            is_last = block + 1 == blocks
            if is_last or time.monotonic() - saved_at > SAVE_EVERY_S:
                checkpoint.save_state(saves, state, shared, None, step=block + 1)
                saved_at = time.monotonic()
    if done < blocks:
        print(f"{phase}: {blocks - done} of {blocks} blocks in {time.monotonic() - started:.0f} s", flush=True)
    history = [
        {name: np.asarray(value) for name, value in line.items() if name not in ("phase", "step")}
        for line in folder.records(phase)
    ]
    return state, history


def _resume(folder: RunFolder, phase: str, saves: pathlib.Path, state: Any, shared: Any):
    """(state, blocks done) of the last save; of the start where there is none, or its measurements are lost."""
    done = checkpoint.latest_step(saves) or 0
    if not done:
        return state, 0
    recorded = {line["step"] for line in folder.records(phase)}
    if not recorded.issuperset(range(done + 1)):
        print(
            f"{phase}: metrics.jsonl lacks measurements of the {done} saved blocks; starting the phase again",
            flush=True,
        )
        shutil.rmtree(saves)
        return state, 0
    with mending(f"remove {saves} and run the same command: it trains this phase again"):
        return checkpoint.restore_state(saves, state, shared, None), done


@contextlib.contextmanager
def mending(advice: str) -> Iterator[None]:
    """Turns a CheckpointError into a UserError that says what to do about it in a run's folder."""
    try:
        yield
    except CheckpointError as error:
        problem = str(error).split("; ")[0].rstrip(".")  # what follows is advice to whoever calls the library
        raise UserError(f"{problem}; {advice}.") from error


def _measure(folder: RunFolder, phase: str, step: int, values: dict[str, jax.Array]) -> None:
    folder.record(phase=phase, step=step, **{name: np.asarray(value).tolist() for name, value in values.items()})


def forget_saves(folder: RunFolder) -> None:
    """Frees the disk once the summary is written."""
    shutil.rmtree(folder.path / "phases", ignore_errors=True)
