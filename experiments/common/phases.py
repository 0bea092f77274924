"""A phase of training: blocks of steps with a progress bar, a record after each, and resumption after an interruption."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from experiments.common import preemption, processes, profiling
from experiments.common.errors import UserError
from experiments.common.recording import RunFolder, remove, slug
from lora_jax import checkpoint, mesh
from lora_jax.errors import CheckpointError, DamagedError, first_line
from lora_jax.sweep import Sweep, SweepState, fill, first

SAVES = "phases"  # the folder that has them, in a run's
SAVE_EVERY_S = 15.0  # a save of small states takes 0.2 s
QUICK_S = 1.0  # of a save; one that takes longer is made as much more rarely


def train(
    folder: RunFolder,
    phase: str,
    trainer: Sweep,
    state: SweepState,
    shared: Any,
    data: Any,
    *,
    order: Callable[[int], jax.Array],
    blocks: int,
    follow: Callable[[SweepState], dict[str, jax.Array]] = lambda state: {},
) -> tuple[SweepState, list[dict[str, np.ndarray]]]:
    """`train_blocks` where a block is one call of `trainer.run`, and the devices share the members.

    Args:
      order: block -> indices [S, B] or [M, S, B]; a function of the block alone, so a resumed run sees the same data.
    """

    members, state = len(state.learning_rate), trainer.filled(state)
    everywhere = trainer.share(shared, state), trainer.share(data, state)

    def advance(state: SweepState, block: int):
        rows = order(block)
        rows = fill(rows, len(state.learning_rate)) if rows.ndim == 3 else rows
        state, (losses, _) = trainer.run(state, *everywhere, trainer.share(rows, state))
        return state, {"loss": losses.mean(axis=1)[:members], "traces": len(trainer.traces)}

    def measured(state: SweepState) -> dict[str, jax.Array]:
        return {name: value[:members] for name, value in follow(state).items()}

    return train_blocks(folder, phase, state, shared, advance, blocks=blocks, follow=measured, members=members)


def train_blocks(
    folder: RunFolder,
    phase: str,
    state: Any,
    shared: Any,
    advance: Callable[[Any, int], tuple[Any, dict[str, jax.Array]]],
    *,
    blocks: int,
    follow: Callable[[Any], dict[str, jax.Array]] = lambda state: {},
    members: int | None = None,
    told: Callable[[dict[str, Any]], str] = lambda values: "",
    unit: str = "block",
) -> tuple[Any, list[dict[str, np.ndarray]]]:
    """Runs `blocks` calls of `advance`, from the last save if there is one; saves and stops where the machine is taken away.

    Args:
      state: before the first step; its structure is what a save is read into.
      shared: the frozen tree that saves are bound to.
      advance: (state, block) -> (state, values to record); what it does depends on these two alone.
      follow: measured before the first block and after each one; recorded in metrics.jsonl.
      members: the state is a sweep's, and these of its members are real; the others only make it even, and are not saved. So a run goes on
        with another number of devices.
      told: what the progress bar says of the values of a block; `unit` is what it calls one.

    Returns:
      The final state, and the history: one dict per measurement, arrays [M, ...], the one before training first.
    """
    saves = _saves(folder, phase)
    state, done = _resume(folder, phase, saves, state, shared, members)
    if not done:
        _measure(folder, phase, 0, follow(state))
    saved_at, took = time.monotonic(), 0.0
    started = time.monotonic()
    bar = tqdm(total=blocks, initial=done, desc=phase, unit=unit, leave=False, disable=None)
    with bar, preemption.saving():
        for block in range(done, blocks):
            with profiling.block(folder.path / "profile" / slug(phase), block == min(done + 1, blocks - 1)):
                state, values = advance(state, block)
            _measure(folder, phase, block + 1, {**values, **follow(state)})
            bar.set_postfix_str(told(values), refresh=False)
            bar.update()
            is_last = block + 1 == blocks
            leaving = preemption.is_due()
            if is_last or leaving or _is_due(saved_at, took):
                began = time.monotonic()
                checkpoint.save_state(
                    saves, _real(state, members), shared, None, step=block + 1, run=f"{folder.run}/{phase}"
                )
                saved_at = time.monotonic()
                took = saved_at - began
            if leaving:
                preemption.stop(f"{phase} after {block + 1} of {blocks} blocks in {folder.path}")
    if done < blocks:
        print(f"{phase}: {blocks - done} of {blocks} blocks in {time.monotonic() - started:.0f} s", flush=True)
    history = [
        {name: np.asarray(value) for name, value in line.items() if name not in ("phase", "step")}
        for line in folder.records(phase)
    ]
    return _real(state, members), history


def _is_due(saved_at: float, took: float) -> bool:
    """Whether to save again; saves that take long, of a whole large model say, are rarer."""
    wait_s = SAVE_EVERY_S * max(1.0, took / QUICK_S)
    return processes.agreed_by_first(lambda: time.monotonic() - saved_at > wait_s)


def traces(history: list[dict[str, np.ndarray]]) -> int:
    """The most programs that any process of the phase has traced: one that resumed a complete phase has traced none itself."""
    return max(int(line["traces"]) for line in history[1:])


def _real(state: Any, members: int | None) -> Any:
    return state if members is None else first(state, members)


def _resume(folder: RunFolder, phase: str, saves: epath.Path, state: Any, shared: Any, members: int | None):
    """(state, blocks done) of the newest save that is whole; of the start where there is none, or its measurements are lost."""
    recorded = {line["step"] for line in folder.records(phase)}
    like = _real(state, members)
    for done in processes.agreed_by_first(lambda: sorted(checkpoint.steps(saves), reverse=True)):
        if not recorded.issuperset(range(done + 1)):
            print(
                f"{phase}: metrics.jsonl lacks measurements of the {done} saved blocks; going on from an earlier save, if there is one",
                flush=True,
            )
        else:
            with mending(f"remove {saves} and run the same command: it trains this phase again"):
                try:
                    return _as_begun(
                        checkpoint.restore_state(saves, like, shared, None, step=done, run=f"{folder.run}/{phase}"),
                        state,
                    ), done
                except DamagedError as error:
                    print(
                        f"{phase}: {first_line(error).split(';')[0]}; going on from an earlier save, if there is one",
                        flush=True,
                    )
        remove(saves / str(done))
    return state, 0


def _as_begun(state: Any, begun: Any) -> Any:
    """A restored state filled up and laid on the devices as the one that this run began with."""

    def one(leaf, like):
        leaf = fill(leaf, like.shape[0]) if leaf.shape != like.shape else leaf
        spread = isinstance(like.sharding, jax.sharding.NamedSharding) and like.sharding.mesh.size > 1
        return mesh.put(leaf, like.sharding.mesh, like.sharding.spec) if spread else leaf

    return jax.tree.map(one, state, begun)


@contextlib.contextmanager
def mending(advice: str) -> Iterator[None]:
    """Turns a CheckpointError into a UserError that says what to do about it in a run's folder."""
    try:
        yield
    except CheckpointError as error:
        problem = str(error).split("; ")[0].rstrip(".")  # what follows is advice to whoever calls the library
        raise UserError(f"{problem}; {advice}.") from error


def _measure(folder: RunFolder, phase: str, step: int, values: dict[str, jax.Array]) -> None:
    fetched = {name: mesh.fetch(value) if isinstance(value, jax.Array) else value for name, value in values.items()}
    folder.record(phase=phase, step=step, **{name: np.asarray(value).tolist() for name, value in fetched.items()})


def is_begun(folder: RunFolder, phase: str) -> bool:
    """Whether there is a save to go on from."""
    return processes.agreed_by_first(lambda: bool(checkpoint.steps(_saves(folder, phase))))


def forget_saves(folder: RunFolder, phase: str | None = None) -> None:
    """Frees the disk once the summary is written, or what came of a phase."""
    remove(folder.path / SAVES if phase is None else _saves(folder, phase))


def _saves(folder: RunFolder, phase: str) -> epath.Path:
    return folder.path / SAVES / slug(phase)
