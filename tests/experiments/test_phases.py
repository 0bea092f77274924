"""Is a phase that was interrupted, in whatever way, bitwise the one that was not?"""

import functools
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.common import phases
from experiments.common.classification import cross_entropy, errors_by_class
from experiments.common.errors import UserError
from experiments.common.recording import RunFolder
from lora_jax import LoRA, LoRAConfig, sweep, trainable_mask
from lora_jax.checkpoint import store
from lora_jax.models.mlp import MLP

MODEL = LoRA(MLP(hidden=(5,), dropout=0.3), LoRAConfig(rank=2, dropout=0.1))
MEMBERS = sweep.grid(ranks=(1, 2), learning_rates=(0.1,), seeds=(0,))
BLOCKS = 5
RNG = np.random.default_rng(0)
DATA = {"x": jnp.asarray(RNG.normal(size=(30, 6)), jnp.float32), "y": jnp.asarray(RNG.integers(10, size=30), jnp.int32)}

pytestmark = pytest.mark.usefixtures("quick_compile", "save_each_block")


class Killed(Exception):
    """Stands for whatever ends a run: nothing after it is executed."""


@pytest.fixture
def save_each_block(monkeypatch):
    monkeypatch.setattr(phases, "SAVE_EVERY_S", 0.0)


@functools.cache
def trainer():
    runner = sweep.Sweep(cross_entropy(MODEL), optax.adam)
    return runner, runner.evaluation(errors_by_class(MODEL), 16)


@functools.cache
def base():
    return MODEL.base_module.init(jax.random.key(0), DATA["x"])["params"]


def order(block):
    return jax.random.randint(jax.random.key(block), (len(MEMBERS), 3, 8), 0, 30, jnp.int32)


def train(folder, killed_after: int | None = None):
    """The phase, from whatever lies in the folder; killed after as many measurements of the whole phase."""
    runner, evaluate = trainer()
    stacked = sweep.init_adapters(MODEL, MEMBERS, DATA["x"])
    state = runner.start(stacked, trainable_mask(stacked), learning_rates=[0.1] * 2, seeds=[0, 0])

    def follow(state):
        if killed_after is not None and len({line["step"] for line in folder.records("tune")}) >= killed_after:
            raise Killed
        return evaluate(state, base(), DATA)

    return phases.train(folder, "tune", runner, state, base(), DATA, order=order, blocks=BLOCKS, follow=follow)


def assert_same(one, other):
    (state, history), (other_state, other_history) = one, other
    for leaf, other_leaf in zip(jax.tree.leaves(state), jax.tree.leaves(other_state), strict=True):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf, other_leaf = jax.random.key_data(leaf), jax.random.key_data(other_leaf)
        assert np.array_equal(leaf, other_leaf)
    assert len(history) == len(other_history) == BLOCKS + 1
    for line, other_line in zip(history, other_history, strict=True):
        assert line.keys() == other_line.keys()
        assert all(np.array_equal(line[name], other_line[name]) for name in line)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, quick_compile):
    return train(RunFolder(str(tmp_path_factory.mktemp("whole")), "run", {"settings": {}}))


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory, quick_compile):
    """A run killed while block 4 was measured: blocks 1 to 3 are measured, 2 and 3 are saved."""
    folder = RunFolder(str(tmp_path_factory.mktemp("killed")), "run", {"settings": {}})
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(phases, "SAVE_EVERY_S", 0.0)
        train(folder, killed_after=4)
    return folder


@pytest.fixture
def killed(killed_once, folder):
    """A copy of it, to be damaged."""
    shutil.copytree(killed_once.path, folder.path, dirs_exist_ok=True)
    assert sorted(path.name for path in (folder.path / "phases" / "tune").iterdir()) == ["2", "3"]
    return folder


def test_the_phase_learns_something(uninterrupted):
    """Or equality would say little."""
    _, history = uninterrupted
    assert history[-1]["loss"].mean() < history[1]["loss"].mean()
    assert history[0].keys() == {"errors"}


def test_resumed_equals_uninterrupted(killed, uninterrupted, capsys):
    assert_same(train(killed), uninterrupted)
    assert "tune: 2 of 5 blocks" in capsys.readouterr().out


def test_killed_twice_and_before_any_save(folder, uninterrupted):
    for measurements in (0, 2):
        with pytest.raises(Killed):
            train(folder, killed_after=measurements)
    assert_same(train(folder), uninterrupted)


def test_a_line_measured_but_not_saved_is_measured_again(killed, uninterrupted):
    shutil.rmtree(killed.path / "phases" / "tune" / "3")
    assert_same(train(killed), uninterrupted)


def test_a_killed_save_is_no_save(killed, uninterrupted):
    (killed.path / "phases" / "tune" / "4.orbax-checkpoint-tmp-1").mkdir()
    assert_same(train(killed), uninterrupted)


def test_half_a_line_in_the_record(killed, uninterrupted):
    with (killed.path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "tune", "step": 4, "lo')
    assert_same(train(killed), uninterrupted)


def test_lost_measurements_start_the_phase_again(killed, uninterrupted, capsys):
    metrics = killed.path / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:1] + lines[2:]))
    assert_same(train(killed), uninterrupted)
    printed = capsys.readouterr().out
    assert (
        "lacks measurements of the 3 saved blocks; going on from an earlier save" in printed
        and "5 of 5 blocks" in printed
    )


@pytest.mark.parametrize("number", [1, 2])
def test_damaged_saves_cost_what_came_after_the_last_whole_one(killed, uninterrupted, capsys, number):
    for name in ("3", "2")[:number]:
        for path in pathlib.Path(killed.path / "phases" / "tune" / name / "arrays").rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[:20])
    assert_same(train(killed), uninterrupted)
    printed = capsys.readouterr().out
    assert re.search(r"tune/3 is damaged \(arrays/.* is missing or changed\); going on from an earlier save", printed)
    assert f"tune: {3 if number == 1 else 5} of 5 blocks" in printed


def test_a_save_of_another_base_is_no_damage(killed, monkeypatch):
    read = store.read

    def of_another_base(*args):
        saved = read(*args)
        return saved._replace(about={**saved.about, "base": "another"})

    monkeypatch.setattr(store, "read", of_another_base)
    with pytest.raises(UserError, match=r"belongs to another base.*; remove (\S+) and run the same command"):
        train(killed)


def test_a_complete_phase_is_not_trained_again(folder, uninterrupted):
    train(folder)
    runner, _ = trainer()
    traces = len(runner.traces)
    assert_same(train(folder, killed_after=0), uninterrupted)  # not even measured
    assert len(runner.traces) == traces
    phases.forget_saves(folder)
    assert not (folder.path / "phases").exists()
