"""Does a checkpoint take, and give back, what is odd: wide integers, empty arrays, keys, boxes, names, folders of a user's own?"""

import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import LoRA, LoRAConfig, adapt, checkpoint, trainable_mask
from lora_jax.errors import CheckpointError, TreeError

CONFIG = LoRAConfig(rank=1, targets="hidden")
X = jnp.ones((2, 3))


class Boxed(nn.Module):
    """Kernels in Flax's boxes."""

    @nn.compact
    def __call__(self, x):
        boxed = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
        return nn.Dense(2, name="head", kernel_init=boxed)(nn.Dense(4, name="hidden", kernel_init=boxed)(x))


BASE = Boxed().init(jax.random.key(0), X)["params"]
MODEL = LoRA(Boxed(), CONFIG)


def fresh(seed=1):
    return adapt(jax.random.key(seed), BASE, MODEL, X)


def again(folder, state, like=None):
    checkpoint.save_state(folder, state, {}, None, step=1)
    return checkpoint.restore_state(folder, state if like is None else like, {}, None)


def test_numbers_that_jax_would_round_come_back_as_they_were(tmp_path):
    state = {"tokens": np.int64(5_000_000_000), "loss": np.float64(1 / 3), "w": jnp.ones(2)}
    found = again(tmp_path / "state", state)
    assert {name: (leaf.item(), leaf.dtype) for name, leaf in found.items() if name != "w"} == {
        "tokens": (5_000_000_000, np.int64),
        "loss": (1 / 3, np.float64),
    }
    checkpoint.save_adapter(tmp_path / "a", fresh(), CONFIG, mask=None, collections={"count": {"n": state["tokens"]}})
    assert checkpoint.load(tmp_path / "a", BASE, MODEL).collections["count"]["n"] == 5_000_000_000


def test_arrays_without_an_entry_are_saved_with_the_others(tmp_path):
    found = again(tmp_path, {"w": jnp.ones(2), "none": jnp.zeros((0, 3), jnp.bfloat16)})
    assert found["none"].shape == (0, 3) and found["none"].dtype == jnp.bfloat16
    with pytest.raises(CheckpointError, match="unexpected none"):
        checkpoint.restore_state(tmp_path, {"w": jnp.ones(2), "other": jnp.zeros((0, 3))}, {}, None)


def test_a_state_without_arrays_is_one_sentence(tmp_path):
    for state in ({}, {"none": jnp.zeros(0)}):
        with pytest.raises(CheckpointError, match="nothing to save"):
            checkpoint.save_state(tmp_path, state, {}, None, step=1)


@pytest.mark.parametrize("name", ["rngs", "a/b", "", "a%2Fb"])
def test_b3_keys_in_collections_of_any_name_come_back_as_keys(tmp_path, name):
    key = jax.random.key(3, impl="rbg")
    checkpoint.save_adapter(tmp_path, fresh(), CONFIG, mask=None, collections={name: {"dropout": key}})
    found = checkpoint.load(tmp_path, BASE, MODEL).collections
    assert list(found) == [name] and found[name]["dropout"] == key


@pytest.mark.parametrize("other", [jax.random.key(0, impl="unsafe_rbg"), jnp.zeros(4, jnp.uint32)])
def test_a_key_of_another_kind_is_refused(tmp_path, other):
    with pytest.raises(CheckpointError, match="has a PRNG key of rbg at key, and this state has a"):
        again(tmp_path, {"key": jax.random.key(3, impl="rbg")}, {"key": other})


def test_a_head_in_a_box_is_saved_and_comes_back_in_its_box(tmp_path):
    params = fresh()
    params["head"]["kernel"] = params["head"]["kernel"].replace_boxed(jnp.full((4, 2), 7.0))
    checkpoint.save_adapter(tmp_path, params, CONFIG, mask=trainable_mask(params, train="head"))
    for found in (
        checkpoint.restore_adapter(tmp_path, fresh(2), CONFIG),
        checkpoint.load(tmp_path, BASE, MODEL).params,
    ):
        assert jax.tree.structure(found) == jax.tree.structure(params)
        jax.tree.map(np.testing.assert_array_equal, found, params)


def test_d_folders_of_a_user_s_that_are_called_by_numbers_stay(tmp_path):
    for name in ("0", "1", "2", "9"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes").write_text("mine")
    assert checkpoint.steps(tmp_path) == []
    for step in (3, 4, 5):
        checkpoint.save_adapter(tmp_path, fresh(), CONFIG, mask=None, step=step)
    assert checkpoint.steps(tmp_path) == [4, 5]
    assert all((tmp_path / name / "notes").read_text() == "mine" for name in ("0", "1", "2", "9"))
    for overwrite in (False, True):
        with pytest.raises(CheckpointError, match="9 is there and is no checkpoint"):
            checkpoint.save_adapter(tmp_path, fresh(), CONFIG, mask=None, step=9, overwrite=overwrite)


@pytest.mark.parametrize("run", [""])
def test_a_run_without_a_name_is_refused_at_save(tmp_path, run):
    with pytest.raises(CheckpointError, match="is a string that names the run"):
        checkpoint.save_adapter(tmp_path, fresh(), CONFIG, mask=None, run=run)


@pytest.mark.parametrize("collections", [{"a": {"b": None}}, {"a": {"b": "s"}}, {"params": {}}])
def test_collections_that_are_no_trees_are_one_sentence(tmp_path, collections):
    with pytest.raises(TreeError, match="collections"):
        checkpoint.save_adapter(tmp_path, fresh(), CONFIG, mask=None, collections=collections)


ODD = """
import sys, numpy as np
from lora_jax import LoRAConfig, checkpoint, errors, files
factors = {"lora_a": np.ones((3, 1), np.float32), "lora_b": np.ones((1, 2), np.float32), "lora_scale": np.ones(())}
base, config, folder = {"kernel": np.ones((3, 2))}, LoRAConfig(rank=1), sys.argv[1]
save = lambda path=folder, **more: checkpoint.save_adapter(path, {**base, **factors}, config, mask=None, **more)
save()
calls = {}
for path in (None, 3, b"x", ["x"], "a\\0b"):
    calls["is no path; give a string", "save", repr(path)] = lambda path=path: save(path)
    calls["is no path; give a string", "steps", repr(path)] = lambda path=path: checkpoint.steps(path)
    calls["is no path; give a string", "latest", repr(path)] = lambda path=path: checkpoint.latest_step(path)
    calls["is no path; give a string", "config", repr(path)] = lambda path=path: checkpoint.read_config(path)
    calls["is no path; give a string", "folder", repr(path)] = lambda path=path: files.write_folder(path, {"a": b""})
    calls["is no path; give a string", "file", repr(path)] = lambda path=path: files.write_atomically(path, b"")
for run in (3, b"x", ["a"]):
    calls["is a string that names the run", repr(run)] = lambda run=run: save(step=1, run=run)
for step in ([1], "1", 1.0):
    calls["must be an integer", repr(step)] = lambda step=step: checkpoint.read_config(folder, step=step)
for odd in ({1: {"a": np.ones(1)}}, {"a": [1]}, [1], "x"):
    calls["collections", repr(odd)] = lambda odd=odd: save(step=1, collections=odd)
for (expected, *which), call in calls.items():
    try:
        call()
    except errors.LoRAError as error:
        assert expected in str(error), (which, error)
    else:
        raise AssertionError(which)
assert checkpoint.steps(folder) == [0]
"""


def test_b2_values_of_other_types_are_one_sentence_each(tmp_path):
    """In a process of its own: here annotations are checked before any of ours is."""
    done = subprocess.run([sys.executable, "-c", ODD, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_folder_of_peft_is_named_as_one(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="it is a folder of PEFT: read it by lora_jax.peft.load"):
        checkpoint.load(tmp_path, {"kernel": np.ones((2, 2), np.float32)}, nn.Dense(2))
