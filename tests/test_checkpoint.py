"""Does a checkpoint come back exactly, or not at all and with one sentence that says why?"""

import functools
import gc
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training import train_state

from lora_jax import (
    LoRA,
    LoRAConfig,
    LoRAError,
    adapt,
    checkpoint,
    combine,
    lora_optimizer,
    merge,
    partition,
    trainable_mask,
    training,
)
from lora_jax.checkpoint import record, store
from lora_jax.checkpoint.fingerprints import arrays_of
from lora_jax.errors import CheckpointError
from lora_jax.models.mlp import MLP
from tests.bucket import unfinished
from tests.cases import flat, randomised

CONFIG = LoRAConfig(rank=2, alpha=4, dropout=0.3, rank_pattern={"classifier": 1})
MODEL = LoRA(MLP(hidden=(4,), classes=3, dropout=0.2), CONFIG)
DATA = {
    "x": jnp.asarray(np.random.default_rng(0).normal(size=(22, 5)), jnp.float32),
    "y": jnp.asarray(np.random.default_rng(1).integers(3, size=22), jnp.int32),
}


@functools.cache
def fresh():
    base = jax.jit(MODEL.base_module.init)(jax.random.key(0), DATA["x"])["params"]
    return adapt(jax.random.key(1), base, MODEL, DATA["x"])


@functools.cache
def trained():
    return randomised(fresh(), seed=3)


def with_new_head(params):
    head = {**params["classifier"], "kernel": params["classifier"]["kernel"] + 1, "bias": jnp.ones(3)}
    return {**params, "classifier": head}


def assert_equal(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(dict(expected))
    jax.tree.map(np.testing.assert_array_equal, got, dict(expected))


# Adapters


def test_round_trip_of_an_adapter(tmp_path):
    checkpoint.save_adapter(tmp_path, trained(), CONFIG, mask=None)
    got = checkpoint.restore_adapter(tmp_path, fresh(), CONFIG)
    assert_equal(got, trained())
    merge(got)  # as good as any other tree


def test_only_the_adapter_is_written(tmp_path):
    checkpoint.save_adapter(tmp_path, trained(), CONFIG, mask=None)
    saved = store.read(tmp_path, 0)
    assert set(saved.arrays) == {path for path in flat(trained()) if "lora_" in path}
    assert checkpoint.read_config(tmp_path) == CONFIG


def test_the_head_that_trains_is_saved_with_its_adapter(tmp_path):
    mask = trainable_mask(fresh(), train="classifier")
    checkpoint.save_adapter(tmp_path, with_new_head(trained()), CONFIG, mask=mask)
    assert_equal(checkpoint.restore_adapter(tmp_path, fresh(), CONFIG, mask=mask), with_new_head(trained()))


def test_bfloat16_comes_back_bitwise(tmp_path):
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), trained())
    checkpoint.save_adapter(tmp_path, params, CONFIG, mask=None)
    assert_equal(checkpoint.restore_adapter(tmp_path, params, CONFIG), params)


def test_the_newest_of_the_two_that_are_kept_is_restored(tmp_path):
    versions = {step: randomised(fresh(), seed=step) for step in (1, 2, 10)}
    for step, params in versions.items():
        checkpoint.save_adapter(tmp_path, params, CONFIG, mask=None, step=step)
    assert checkpoint.latest_step(tmp_path) == 10
    assert_equal(checkpoint.restore_adapter(tmp_path, fresh(), CONFIG), versions[10])
    assert_equal(checkpoint.restore_adapter(tmp_path, fresh(), CONFIG, step=2), versions[2])
    with pytest.raises(CheckpointError, match="no checkpoint of step 1 .*steps 2, 10"):
        checkpoint.restore_adapter(tmp_path, fresh(), CONFIG, step=1)


# Strictness


def drop(tree):
    return {**tree, "hidden_0": {name: leaf for name, leaf in tree["hidden_0"].items() if name != "lora_a"}}


def add(tree):
    return {**tree, "extra": {"lora_a": jnp.ones((2, 1))}}


def transpose(tree):
    return {**tree, "classifier": {**tree["classifier"], "lora_a": tree["classifier"]["lora_a"].T}}


def recast(tree):
    return {**tree, "classifier": {**tree["classifier"], "lora_b": tree["classifier"]["lora_b"].astype(jnp.float16)}}


WORDS = {
    drop: "missing hidden_0/lora_a float32[5,2]",
    add: "unexpected extra/lora_a float32[2,1]",
    transpose: "mis-shaped classifier/lora_a: expected float32[4,1], found float32[1,4]",
    recast: "mis-shaped classifier/lora_b: expected float32[1,3], found float16[1,3]",
}


def write_unchecked(folder, params):
    """What `save_adapter` would refuse to write."""
    arrays = arrays_of({path: leaf for path, leaf in flat(params).items() if "lora_" in path})
    base = {path: leaf for path, leaf in flat(params).items() if path not in arrays}
    store.write(folder, 0, arrays, record.about(arrays, CONFIG, checkpoint.fingerprint(base), None), overwrite=False)


@pytest.mark.parametrize("spoils", [[drop], [add], [transpose], [recast], [drop, add, transpose, recast]])
def test_one_error_lists_every_difference_and_nothing_is_changed(tmp_path, spoils):
    spoiled = functools.reduce(lambda tree, spoil: spoil(tree), spoils, trained())
    write_unchecked(tmp_path, spoiled)
    target, before = fresh(), jax.tree.map(np.array, fresh())
    with pytest.raises(CheckpointError) as caught:
        checkpoint.restore_adapter(tmp_path, target, CONFIG)
    assert all(WORDS[spoil] in str(caught.value) for spoil in spoils)
    assert str(caught.value).count("; ") == len(spoils) - 1
    assert_equal(target, before)


def test_a_checkpoint_without_the_head_says_so(tmp_path):
    checkpoint.save_adapter(tmp_path, trained(), CONFIG, mask=None)
    with pytest.raises(CheckpointError, match="missing classifier/bias.*missing classifier/kernel"):
        checkpoint.restore_adapter(tmp_path, fresh(), CONFIG, mask=trainable_mask(fresh(), train="classifier"))


def other_value(params):
    hidden = {**params["hidden_0"], "kernel": params["hidden_0"]["kernel"].at[0, 0].add(1e-3)}
    return {**params, "hidden_0": hidden}


def test_another_base_is_refused(tmp_path):
    checkpoint.save_adapter(tmp_path, trained(), CONFIG, mask=None)
    with pytest.raises(CheckpointError, match="belongs to another base"):
        checkpoint.restore_adapter(tmp_path, other_value(fresh()), CONFIG)


@pytest.mark.parametrize(
    ("field", "value", "there"),
    [
        ("alpha", 8, "alpha is 4 there and 8 here"),
        ("dropout", 0.0, "dropout is 0.3 there and 0.0 here"),
        ("rank", 3, "rank is 2 there and 3 here"),
        ("targets", "hidden_0", "targets is"),
        ("scaling", "constant", "scaling is 'alpha/r' there and 'constant' here"),
        ("rank_pattern", {"classifier": 4}, "rank_pattern is"),
        ("init_a", "normal", "init_a is"),
    ],
)
def test_another_config_is_refused_by_the_name_of_its_field(tmp_path, field, value, there):
    checkpoint.save_adapter(tmp_path, trained(), CONFIG, mask=None)
    other = LoRAConfig(**{**_fields(CONFIG), field: value})
    with pytest.raises(CheckpointError) as caught:
        checkpoint.restore_adapter(tmp_path, fresh(), other)
    assert f"another config: {there}" in str(caught.value)
    assert str(caught.value).count(" there and ") == 1


def _fields(config):
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def test_an_adapter_is_not_a_training_state(tmp_path):
    checkpoint.save_adapter(tmp_path, trained(), CONFIG, mask=None)
    with pytest.raises(CheckpointError, match="saved with a LoRA config"):
        checkpoint.restore_state(tmp_path, {"step": jnp.zeros(())}, {}, None)


@pytest.mark.parametrize("step", [3, 5, -1])
def test_a_step_that_does_not_come_after_the_newest_is_refused(tmp_path, step):
    checkpoint.save_adapter(tmp_path, trained(), CONFIG, mask=None, step=5)
    with pytest.raises(CheckpointError, match=f"step is {step}[,;] .*"):
        checkpoint.save_adapter(tmp_path, fresh(), CONFIG, mask=None, step=step)
    assert_equal(checkpoint.restore_adapter(tmp_path, fresh(), CONFIG), trained())


def test_a_folder_without_checkpoints_says_so(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        assert checkpoint.latest_step(folder) is None
        with pytest.raises(CheckpointError, match="no checkpoint .*there is none"):
            checkpoint.restore_adapter(folder, fresh(), CONFIG)
    assert not (tmp_path / "absent").exists()


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointError, match="cannot write a checkpoint"):
            checkpoint.save_adapter(folder, trained(), CONFIG, mask=None)


@pytest.mark.parametrize("change", [{"a": 1.5}, {"b": 1.0}], ids=["value", "path"])
def test_the_fingerprint_depends_on_bytes_and_paths(change):
    tree = {"a": np.asarray(1.0)}
    other = {name: np.asarray(value) for name, value in change.items()}
    assert checkpoint.fingerprint(tree) == checkpoint.fingerprint({"a": np.asarray(1.0)})
    assert checkpoint.fingerprint(tree) != checkpoint.fingerprint(other)


@pytest.mark.parametrize("other", [np.zeros(4, np.float32), np.zeros((2, 2), np.int32)], ids=["shape", "dtype"])
def test_the_fingerprint_depends_on_shape_and_dtype(other):
    assert checkpoint.fingerprint({"a": np.zeros((2, 2), np.float32)}) != checkpoint.fingerprint({"a": other})


# Damage


def data_files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 0)


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 0xFF
    path.write_bytes(bytes(content))


def remove(path):
    path.unlink()


# Where a read fails, orbax closes its event loop under the reads still in flight, which then grumble.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [halve, garble, remove])
def test_no_damage_to_any_file_passes_in_silence(tmp_path, damage):
    """Each file of a checkpoint in turn: it is refused in one sentence, or it comes back exactly."""
    whole, refused = tmp_path / "whole", 0
    checkpoint.save_adapter(whole, trained(), CONFIG, mask=None, step=1)
    checkpoint.save_adapter(whole, trained(), CONFIG, mask=None, step=2)
    for number, path in enumerate(data_files(whole / "2")):
        copy = tmp_path / str(number)
        shutil.copytree(whole, copy)
        damage(copy / path.relative_to(whole))
        try:
            assert_equal(checkpoint.restore_adapter(copy, fresh(), CONFIG), trained())
        except CheckpointError as error:
            refused += 1
            assert "damaged" in str(error)
            assert "pass step=1" in str(error)
            assert "\n" not in str(error)
        assert_equal(checkpoint.restore_adapter(copy, fresh(), CONFIG, step=1), trained())
    assert refused >= 2
    gc.collect()  # so that they grumble here


KILLED = """
    import os, pathlib, signal, sys, threading, time
    import jax.numpy as jnp
    from lora_jax import checkpoint

    folder = pathlib.Path(sys.argv[1])
    checkpoint.save_state(folder, {"w": jnp.ones(3)}, {}, None, step=1)

    def kill_when_it_writes():
        while not any(not entry.name.isdigit() for entry in folder.iterdir()):
            time.sleep(0.0005)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=kill_when_it_writes, daemon=True).start()
    checkpoint.save_state(folder, {"w": jnp.zeros((8_000_000,))}, {}, None, step=2)
"""


def test_a_kill_during_saving_leaves_the_previous_checkpoint(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)], env=environment, check=False, timeout=100
    )
    assert child.returncode == -signal.SIGKILL
    assert any(not entry.name.isdigit() for entry in tmp_path.iterdir()), "it was killed before it wrote anything"
    assert checkpoint.latest_step(tmp_path) == 1
    like = {"w": jnp.zeros(3)}
    assert_equal(checkpoint.restore_state(tmp_path, like, {}, None), {"w": jnp.ones(3)})
    checkpoint.save_state(tmp_path, like, {}, None, step=2)
    assert_equal(checkpoint.restore_state(tmp_path, like, {}, None), like)


# Buckets


def test_in_a_bucket_a_step_that_was_not_finished_is_not_there(orbax_bucket):
    folder, like = "gs://bucket/run", {"w": jnp.zeros(3)}
    for step in (1, 2, 3):
        checkpoint.save_state(folder, {"w": jnp.full(3, float(step))}, {}, None, step=step)
    assert checkpoint.steps(folder) == [2, 3]
    unfinished(orbax_bucket / "run" / "3")
    assert checkpoint.steps(folder) == [2] and checkpoint.latest_step(folder) == 2
    assert_equal(checkpoint.restore_state(folder, like, {}, None), {"w": jnp.full(3, 2.0)})
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 3 in gs://bucket/run; there are steps 2\.$"):
        checkpoint.restore_state(folder, like, {}, None, step=3)


def test_in_a_bucket_a_step_that_was_not_finished_is_saved_again(orbax_bucket):
    checkpoint.save_adapter("gs://bucket/run", trained(), CONFIG, mask=None)
    unfinished(orbax_bucket / "run" / "0")
    (orbax_bucket / "run" / "0" / "left").touch()
    assert checkpoint.latest_step("gs://bucket/run") is None
    checkpoint.save_adapter("gs://bucket/run", trained(), CONFIG, mask=None)
    assert_equal(checkpoint.restore_adapter("gs://bucket/run", fresh(), CONFIG), trained())
    assert not (orbax_bucket / "run" / "0" / "left").exists()
    with pytest.raises(CheckpointError, match="at least step 1"):
        checkpoint.save_adapter("gs://bucket/run", trained(), CONFIG, mask=None)


# Resuming


def loss_fn(params, batch, key):
    logits = MODEL.apply({"params": params}, batch["x"], train=True, rngs={"dropout": key})
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), ()


def run(epoch, state, frozen, epochs):
    for number in epochs:
        state, (losses, _) = epoch(state, frozen, DATA, training.epoch_order(jax.random.key(5), number, 22, 4))
    return state, losses


def test_n_plus_n_steps_equal_2n_bitwise(tmp_path):
    mask = trainable_mask(fresh(), train="classifier")
    frozen, trainable = partition(fresh(), mask)
    tx = lora_optimizer(optax.adamw(optax.cosine_decay_schedule(1e-2, 20), weight_decay=0.1), mask)
    epoch = training.make_epoch(loss_fn, tx)

    def start():
        return training.init_state(trainable, tx, jax.random.key(7))

    expected, expected_losses = run(epoch, start(), frozen, range(4))
    half, _ = run(epoch, start(), frozen, range(2))
    checkpoint.save_state(tmp_path, half, frozen, CONFIG, step=int(half.step))
    del half
    restored = checkpoint.restore_state(tmp_path, start(), frozen, CONFIG)
    assert int(restored.step) == checkpoint.latest_step(tmp_path) == 10
    got, losses = run(epoch, restored, frozen, range(2, 4))
    np.testing.assert_array_equal(losses, expected_losses)
    np.testing.assert_array_equal(jax.random.key_data(got.key), jax.random.key_data(expected.key))
    assert_equal(combine(frozen, got.trainable), combine(frozen, expected.trainable))
    jax.tree.map(np.testing.assert_array_equal, got.opt_state, expected.opt_state)
    assert int(got.step) == 20


@pytest.mark.parametrize("change", [{"rank": 3}, {"targets": "hidden_0", "rank_pattern": ()}], ids=str)
def test_resuming_with_another_config_is_refused(tmp_path, change):
    state = {"w": jnp.ones(3)}
    checkpoint.save_state(tmp_path, state, {}, CONFIG, step=1)
    with pytest.raises(LoRAError, match="another config"):
        checkpoint.restore_state(tmp_path, state, {}, LoRAConfig(**{**_fields(CONFIG), **change}))


def test_resuming_on_another_base_or_with_another_optimiser_is_refused(tmp_path):
    state = {"w": jnp.ones(3), "m": jnp.ones(3)}
    checkpoint.save_state(tmp_path, state, {"base": jnp.ones(2)}, CONFIG, step=1)
    with pytest.raises(CheckpointError, match="another base"):
        checkpoint.restore_state(tmp_path, state, {"base": jnp.zeros(2)}, CONFIG)
    with pytest.raises(CheckpointError, match=r"unexpected m float32\[3\]"):
        checkpoint.restore_state(tmp_path, {"w": jnp.ones(3)}, {"base": jnp.ones(2)}, CONFIG)


def test_a_disk_that_is_full_is_a_sentence(tmp_path, monkeypatch):
    """tensorstore raises no OSError there; the text is its own."""

    def fails(*args, **kwargs):
        raise ValueError(
            'RESOURCE_EXHAUSTED: Error writing "train/step/0" in OCDBT database: Failed writing: "d/dbc8": '
            "Failed to write 14032 bytes to file 14: No space left on device [os_error_code='28']"
        )

    monkeypatch.setattr(store.ocp.CheckpointManager, "save", fails)
    with pytest.raises(CheckpointError, match=r"^cannot write a checkpoint to .*: No space left on device\.$"):
        checkpoint.save_adapter(tmp_path, trained(), CONFIG, mask=None)


def test_a_config_of_an_earlier_version_has_the_defaults_of_what_is_new(tmp_path, monkeypatch):
    whole = LoRAConfig.to_dict
    monkeypatch.setattr(
        LoRAConfig, "to_dict", lambda self: {k: v for k, v in whole(self).items() if k not in ("init", "dora")}
    )
    checkpoint.save_adapter(tmp_path, trained(), CONFIG, mask=None)
    monkeypatch.setattr(LoRAConfig, "to_dict", whole)
    checkpoint.restore_adapter(tmp_path, fresh(), CONFIG)


def test_a_mask_of_another_tree_saves_nothing(tmp_path):
    with pytest.raises(LoRAError, match="not of the tree"):
        checkpoint.save_adapter(tmp_path, trained(), CONFIG, mask={"head": {"kernel": True}})
    assert list(tmp_path.iterdir()) == []


def test_a_train_state_of_flax_goes_on_bitwise(tmp_path):
    """Its step begins as Python's 0, which has no width, and is an int32 after a jitted step."""
    frozen, trainable = partition(fresh(), trainable_mask(fresh()))

    def start():
        return train_state.TrainState.create(apply_fn=MODEL.apply, params=trainable, tx=optax.adam(1e-2))

    step = jax.jit(lambda state: state.apply_gradients(grads=jax.tree.map(jnp.sin, state.params)))
    half = step(step(start()))
    for number, state in enumerate((start(), half)):
        checkpoint.save_state(tmp_path, state, frozen, CONFIG, step=number)
        found = checkpoint.restore_state(tmp_path, start(), frozen, CONFIG)
        assert int(found.step) == int(state.step)
        assert_equal(step(found).params, step(state).params)
    with pytest.raises(CheckpointError, match="mis-shaped step: expected float64"):
        checkpoint.restore_state(tmp_path, start().replace(step=0.0), frozen, CONFIG)
    with pytest.raises(CheckpointError, match=r"mis-shaped params/.*: expected int64\[\], found float32"):
        checkpoint.restore_state(tmp_path, start().replace(params=jax.tree.map(lambda _: 0, trainable)), frozen, CONFIG)
