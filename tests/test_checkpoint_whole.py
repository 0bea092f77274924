"""Is nothing of a trained model lost by saving it: heads, batch statistics, a step that is written again, a writer that is killed?"""

import functools
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lora_jax.nnx
from lora_jax import LoRA, LoRAConfig, adapt, checkpoint, quantised, strip, sweep, trainable_mask
from lora_jax.checkpoint import store
from lora_jax.errors import CheckpointError, DamagedError, TreeError, UnsavedStateWarning
from tests.cases import randomised
from tests.files.faults import content, lay, states

CONFIG = LoRAConfig(rank=2, alpha=4, targets="hidden")
X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 5)) * 3 + 2, jnp.float32)


class Normed(nn.Module):
    """A layer, batch statistics, a head."""

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        x = nn.Dense(4, name="hidden")(x)
        return nn.Dense(3, name="head")(nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x)))


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(nn.relu(nn.Dense(4, name="hidden")(x)))


@functools.cache
def variables(model):
    return model.init(jax.random.key(0), X)


def adapted(model, seed=1, config=CONFIG):
    return randomised(adapt(jax.random.key(seed), variables(model)["params"], LoRA(model, config), X), seed)


def assert_equal(got, expected):
    jax.tree.map(np.testing.assert_array_equal, got, expected)


# B3: batch statistics


def test_b3_batch_statistics_are_saved_and_come_back_with_the_adapter(tmp_path):
    params, model = adapted(Normed()), LoRA(Normed(), CONFIG)
    _, changed = model.apply(
        {"params": params, "batch_stats": variables(Normed())["batch_stats"]}, X, train=True, mutable=["batch_stats"]
    )
    checkpoint.save_adapter(tmp_path, params, CONFIG, mask=None, collections=changed)
    found = checkpoint.load(tmp_path, variables(Normed())["params"], Normed())
    assert_equal(found.collections, changed)
    expected = model.apply({"params": params, **changed}, X)
    np.testing.assert_array_equal(found.model.apply({"params": found.params, **found.collections}, X), expected)
    with_old = model.apply({"params": params, "batch_stats": variables(Normed())["batch_stats"]}, X)
    assert np.abs(with_old - expected).max() > 1e-3  # they matter


def test_b3_a_save_that_says_nothing_of_them_says_so(tmp_path):
    params = adapted(Normed())
    with pytest.warns(
        UnsavedStateWarning, match=r"the model has batch_stats .*with collections=\{'batch_stats': \.\.\.\}"
    ):
        checkpoint.save_adapter(tmp_path, params, CONFIG, mask=None)
    assert_equal(checkpoint.restore_adapter(tmp_path, params), params)  # the adapter is not lost for that
    checkpoint.save_adapter(tmp_path, params, CONFIG, mask=None, collections={}, step=1)
    assert checkpoint.load(tmp_path, variables(Normed())["params"], Normed()).collections == {}


def test_b3_a_restore_that_would_drop_them_is_refused(tmp_path):
    params = adapted(Normed())
    checkpoint.save_adapter(
        tmp_path, params, CONFIG, mask=None, collections={"batch_stats": variables(Normed())["batch_stats"]}
    )
    with pytest.raises(CheckpointError, match=r"holds batch_stats beside the adapter; read it by checkpoint\.load"):
        checkpoint.restore_adapter(tmp_path, params, CONFIG)


def test_b3_parameters_are_no_other_collection(tmp_path):
    with pytest.raises(TreeError, match="pass a dict of what the model has beside its parameters"):
        checkpoint.save_adapter(tmp_path, adapted(Plain()), CONFIG, mask=None, collections={"params": {}})


# B4: a head that trained


def with_head(params, change=1.0):
    return {**params, "head": {**params["head"], "kernel": params["head"]["kernel"] + change}}


def test_b4_a_head_that_trained_and_that_no_mask_names_is_found_out_at_save(tmp_path):
    params = adapted(Plain())
    for trained in (
        with_head(params),
        jax.tree.map(lambda leaf: leaf + 0, with_head(params)),
    ):  # and as a jitted step returns all leaves
        with pytest.raises(
            CheckpointError, match=r"head/kernel has changed since lora_jax\.adapt.*train=\('head/kernel',\)"
        ):
            checkpoint.save_adapter(tmp_path, trained, CONFIG, mask=None)
        with pytest.raises(CheckpointError, match="head/kernel has changed"):
            checkpoint.save_adapter(tmp_path, trained, CONFIG, mask=trainable_mask(params))
    assert list(tmp_path.iterdir()) == []
    checkpoint.save_adapter(tmp_path, with_head(params), CONFIG, mask=trainable_mask(params, train="head"))
    assert_equal(checkpoint.load(tmp_path, variables(Plain())["params"], Plain()).params, with_head(params))


def test_b4_a_base_that_did_not_change_is_saved(tmp_path):
    params = adapted(Plain())
    for step, same in enumerate((params, jax.tree.map(jnp.array, params), jax.tree.map(np.asarray, params))):
        checkpoint.save_adapter(tmp_path, same, CONFIG, mask=None, step=step)


def test_b4_a_base_that_was_quantised_or_cast_since_then_is_no_base_that_trained(tmp_path):
    params = adapted(Plain())
    checkpoint.save_adapter(tmp_path / "a", quantised.quantise(params, lora_jax.layout(Plain(), X)), CONFIG, mask=None)
    half = {**params, "head": jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params["head"])}
    checkpoint.save_adapter(tmp_path / "b", half, CONFIG, mask=None)


def test_b4_two_bases_of_one_model_are_told_apart(tmp_path):
    other = Plain().init(jax.random.key(9), X)["params"]
    adapted(Plain())
    params = randomised(adapt(jax.random.key(1), other, LoRA(Plain(), CONFIG), X), 1)
    adapted(Plain())
    checkpoint.save_adapter(tmp_path, params, CONFIG, mask=None)


def test_b4_a_base_that_was_cast_and_is_gone_is_no_base_that_trained(tmp_path):
    base = Plain().init(jax.random.key(8), X)["params"]
    params = adapt(jax.random.key(1), base, LoRA(Plain(), CONFIG), X)
    params["head"] = {**params["head"], "kernel": params["head"]["kernel"].astype(jnp.bfloat16)}
    del base
    checkpoint.save_adapter(tmp_path, params, CONFIG, mask=None)


@pytest.mark.parametrize("newer", ["a merged base", "another head"])
def test_b4_bases_that_share_arrays_are_told_apart(tmp_path, newer):
    params = adapted(Plain())
    own_head = {**strip(params), "head": Plain().init(jax.random.key(9), X)["params"]["head"]}
    other = lora_jax.merge(params) if newer == "a merged base" else own_head
    adapt(jax.random.key(2), other, LoRA(Plain(), CONFIG), X)
    checkpoint.save_adapter(tmp_path, params, CONFIG, mask=None)
    with pytest.raises(CheckpointError, match="head/kernel has changed"):
        checkpoint.save_adapter(tmp_path, with_head(params), CONFIG, mask=None, step=1)


# B10: a step that is there


def test_b10_a_step_that_is_there_is_refused_with_what_to_write(tmp_path):
    checkpoint.save_adapter(tmp_path, adapted(Plain()), CONFIG, mask=None)
    with pytest.raises(
        CheckpointError,
        match=r"step is 0, and .* has step 0; .* at least step 1, or pass overwrite=True to replace step 0",
    ):
        checkpoint.save_adapter(tmp_path, adapted(Plain(), 2), CONFIG, mask=None)
    checkpoint.save_adapter(tmp_path, adapted(Plain(), 2), CONFIG, mask=None, overwrite=True)
    assert_equal(checkpoint.load(tmp_path, variables(Plain())["params"], Plain()).params, adapted(Plain(), 2))
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_b10_overwriting_needs_no_step_to_be_there_and_replaces_no_later_one(tmp_path):
    for step in (3, 7):
        checkpoint.save_adapter(tmp_path, adapted(Plain()), CONFIG, mask=None, step=step, overwrite=True)
    checkpoint.save_adapter(tmp_path, adapted(Plain(), 2), CONFIG, mask=None, step=3, overwrite=True)
    assert checkpoint.steps(tmp_path) == [3, 7]
    with pytest.raises(CheckpointError, match=r"has step 7; .* at least step 8, or name another folder"):
        checkpoint.save_adapter(tmp_path, adapted(Plain()), CONFIG, mask=None, step=5, overwrite=True)
    assert_equal(checkpoint.load(tmp_path, variables(Plain())["params"], Plain(), step=3).params, adapted(Plain(), 2))


@pytest.mark.parametrize("step", [-1, 1.5, True, "1", None])
def test_a_step_that_is_no_number_is_refused(tmp_path, step):
    with pytest.raises(CheckpointError, match=r"step is .*; it must be an integer of 0 or more"):
        store.write(tmp_path, step, {}, {}, overwrite=False)


# One call


@pytest.mark.parametrize("wrapped", [False, True])
def test_load_needs_no_config_and_no_mask(tmp_path, wrapped):
    params = with_head(adapted(Plain()))
    checkpoint.save_adapter(tmp_path, params, CONFIG, mask=trainable_mask(params, train="head"))
    model = LoRA(Plain(), LoRAConfig(rank=7, targets="*")) if wrapped else Plain()
    found = checkpoint.load(tmp_path, variables(Plain())["params"], model)
    assert found.config == CONFIG == checkpoint.read_config(tmp_path) == found.model.config and found.step == 0
    assert found.train == ("head/bias", "head/kernel")
    assert trainable_mask(found.params, train=found.train) == trainable_mask(params, train="head")
    np.testing.assert_array_equal(
        found.model.apply({"params": found.params}, X), LoRA(Plain(), CONFIG).apply({"params": params}, X)
    )
    assert_equal(checkpoint.restore_adapter(tmp_path, adapted(Plain(), 5)), params)  # which needs them neither


def test_load_of_nnx(tmp_path):
    layer = nnx.Linear(5, 3, rngs=nnx.Rngs(0))
    model = lora_jax.nnx.LoRA(layer, LoRAConfig(rank=2, targets="*"))
    params = randomised(model.init(jax.random.key(0))["params"], 3)
    checkpoint.save_adapter(tmp_path, params, model.config, mask=None)
    for base in (model.base_params, nnx.state(layer, nnx.Param)):
        found = checkpoint.load(tmp_path, base, layer)
        assert_equal(found.params, params)
        np.testing.assert_array_equal(
            found.model.apply({"params": found.params}, X), model.apply({"params": params}, X)
        )


def test_load_of_a_function(tmp_path):
    def fn(params, x):
        return x @ params["w"]

    base = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(5, 2)), jnp.float32)}
    model = LoRA(fn, LoRAConfig(rank=1, targets="w"))
    params = randomised(adapt(jax.random.key(0), base, model, X), 2)
    checkpoint.save_adapter(tmp_path, params, model.config, mask=None)
    assert_equal(checkpoint.load(tmp_path, base, fn).params, params)


def test_load_onto_another_base_is_refused(tmp_path):
    checkpoint.save_adapter(tmp_path, adapted(Plain()), CONFIG, mask=None)
    base = variables(Plain())["params"]
    with pytest.raises(CheckpointError, match="belongs to another base"):
        checkpoint.load(tmp_path, with_head(base), Plain())
    with pytest.raises(CheckpointError, match="does not fit this base: "):
        checkpoint.load(tmp_path, {"head": base["head"]}, Plain())
    wider = {**base, "hidden": {**base["hidden"], "kernel": jnp.ones((6, 4))}}
    with pytest.raises(CheckpointError, match="does not fit this base: "):
        checkpoint.load(tmp_path, wider, Plain())


def test_load_of_a_head_that_the_base_has_not_is_refused(tmp_path):
    params = adapted(Plain())
    checkpoint.save_adapter(tmp_path, params, CONFIG, mask=trainable_mask(params, train="head"))
    with pytest.raises(CheckpointError, match=r"does not fit: it has head/\w+ .*, which this base has not"):
        checkpoint.load(tmp_path, {"hidden": variables(Plain())["params"]["hidden"]}, Plain())


def test_a_training_state_is_no_adapter(tmp_path):
    checkpoint.save_state(tmp_path, {"w": jnp.ones(2)}, {}, None, step=0)
    for read in (checkpoint.read_config, lambda folder: checkpoint.load(folder, {"w": jnp.ones(2)}, Plain())):
        with pytest.raises(CheckpointError, match="without a LoRA config; it is a training state"):
            read(tmp_path)


def test_a_training_state_with_a_config_is_no_adapter_either(tmp_path):
    params = adapted(Plain())
    frozen, trainable = lora_jax.partition(params, trainable_mask(params))
    state = lora_jax.training.init_state(trainable, optax.adam(1e-3), jax.random.key(0))
    checkpoint.save_state(tmp_path, state, frozen, CONFIG, step=0)
    base = variables(Plain())["params"]
    for read in (
        lambda: checkpoint.load(tmp_path, base, Plain()),
        lambda: checkpoint.restore_adapter(tmp_path, params, CONFIG),
    ):
        with pytest.raises(CheckpointError, match=r"is a training state of save_state; .*restore_state"):
            read()


def test_what_a_step_took_is_not_saved(tmp_path):
    params = jax.tree.map(jnp.array, adapted(Plain()))
    params["hidden"]["lora_a"].delete()
    layout = lora_jax.layout(Plain(), X)
    for save in (
        lambda: checkpoint.save_adapter(tmp_path, params, CONFIG, mask=None),
        lambda: lora_jax.peft.save(tmp_path, params, CONFIG, layout, mask=None),
        lambda: lora_jax.merge(params),
    ):
        with pytest.raises(TreeError, match=r"has an array at hidden/lora_a that is gone: .*newest state"):
            save()


def test_b2_the_bare_base_is_one_sentence(tmp_path):
    checkpoint.save_adapter(tmp_path, adapted(Plain()), CONFIG, mask=None)
    with pytest.raises(
        CheckpointError, match=r"hold no adapter to replace; .*checkpoint\.load\(folder, base_params, model\)\.$"
    ):
        checkpoint.restore_adapter(tmp_path, variables(Plain())["params"], CONFIG)
    with pytest.raises(TreeError, match="hold no adapter"):
        checkpoint.save_adapter(tmp_path, strip(adapted(Plain())), CONFIG, mask=None, step=1)


def test_b2_the_folder_above_and_the_step_itself_are_told_apart(tmp_path):
    checkpoint.save_adapter(tmp_path / "run" / "adapter", adapted(Plain()), CONFIG, mask=None)
    with pytest.raises(CheckpointError, match=r"there is none, but .*run/adapter has some"):
        checkpoint.read_config(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"it is a checkpoint itself: name .*run/adapter\."):
        checkpoint.read_config(tmp_path / "run" / "adapter" / "0")


# D2: another run's


def test_d2_what_another_run_saved_is_refused(tmp_path):
    params, state = adapted(Plain()), {"w": jnp.ones(2)}
    checkpoint.save_adapter(tmp_path / "a", params, CONFIG, mask=None, run="one")
    checkpoint.save_state(tmp_path / "s", state, {}, None, step=0, run="one")
    checkpoint.restore_adapter(tmp_path / "a", params, CONFIG, run="one")
    checkpoint.restore_state(tmp_path / "s", state, {}, None, run="one")
    for run in ("two", None):
        with pytest.raises(CheckpointError, match="belongs to the run one, and is asked for by (the run two|no run)"):
            checkpoint.restore_adapter(tmp_path / "a", params, CONFIG, run=run)
        with pytest.raises(CheckpointError, match="belongs to the run one"):
            checkpoint.restore_state(tmp_path / "s", state, {}, None, run=run)


# D6: what it says of itself


def rewritten(folder, change):
    """The checkpoint with something else said of it."""
    file = folder / "0" / "about" / "metadata"
    file.write_text(change(file.read_text()))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda text: text.replace('"format": 1', '"format": 99'), CheckpointError, "is of format 99, and this version .* format 1"),
        (lambda text: text.replace('"config"', '"confog"'), DamagedError, "lacks 'config'"),
        (lambda text: "[]", DamagedError, "holds|damaged"),
        (lambda text: "[" * 100_000, DamagedError, "is damaged"),
        (lambda text: text.replace('"rank": 2', '"rank": "2"'), DamagedError, "a config that cannot be read"),
        (lambda text: text.replace('"rank": 2', '"ronk": 2'), DamagedError, "a config that cannot be read"),
    ],
    ids=["format", "no config", "a list", "deep", "a word for a rank", "an unknown field"],
)  # fmt: skip
def test_d6_what_a_checkpoint_says_of_another_shape_is_one_sentence(tmp_path, change, error, match):
    checkpoint.save_adapter(tmp_path, adapted(Plain()), CONFIG, mask=None)
    rewritten(tmp_path, change)
    with pytest.raises(error, match=match) as caught:
        checkpoint.load(tmp_path, variables(Plain())["params"], Plain())
    assert "\n" not in str(caught.value)


# Kills


def whole(folder):
    """What can be read in a folder that a killed process left: the newest step and its value."""
    step = checkpoint.latest_step(folder)
    return (
        None
        if step is None
        else (step, float(checkpoint.restore_state(folder, {"w": np.zeros(3, np.float32)}, {}, None)["w"][0]))
    )


@pytest.mark.parametrize("overwrite", [False, True])
def test_c7_a_checkpoint_is_old_or_new_between_every_two_calls(tmp_path, overwrite):
    """orbax makes some of its calls outside of Python; these are covered by kills of whole runs (test_lives.py)."""
    folder = tmp_path / "run"

    def save(step, **kwargs):
        checkpoint.save_state(folder, {"w": np.full(3, float(step), np.float32)}, {}, None, step=step, **kwargs)

    for step in (1, 2):
        save(step)
    old, new = (2, 2.0), (2, 5.0) if overwrite else (3, 3.0)

    def write():
        if overwrite:
            checkpoint.save_state(folder, {"w": np.full(3, 5.0, np.float32)}, {}, None, step=2, overwrite=True)
        else:
            save(3)

    found = states(tmp_path, write)
    seen = []
    for i, state in enumerate(found):
        if i and state == found[i - 1]:
            continue
        laid = lay(tmp_path.parent / f"{tmp_path.name}-{i}", state)
        seen.append(whole(laid / "run"))
        for step in checkpoint.steps(laid / "run"):  # all that are there are whole
            checkpoint.restore_state(laid / "run", {"w": np.zeros(3, np.float32)}, {}, None, step=step)
        shutil.rmtree(laid)
    assert set(seen) == {old, new} and seen == sorted(seen, key=[old, new].index)
    assert len(content(folder)) > 3 and len(checkpoint.steps(folder)) == 2


def test_d5_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    """orbax would print tracebacks of its threads first."""
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(
        CheckpointError,
        match=r"^cannot write a checkpoint to .*: No space left on device: [\d,]+ bytes are needed, and 1,000 are free\.$",
    ):
        checkpoint.save_adapter(tmp_path, adapted(Plain()), CONFIG, mask=None)
    assert list(tmp_path.iterdir()) == []


# B8: of another rank than the config's


def test_b8_an_adapter_of_another_rank_than_the_config_says_is_refused_at_save(tmp_path):
    other = LoRAConfig(rank=4, alpha=4, targets="hidden")
    with pytest.raises(TreeError, match=r"hidden has rank 2, and the config says 4; .*lora_jax\.sweep\.member"):
        checkpoint.save_adapter(tmp_path, adapted(Plain()), other, mask=None)
    assert list(tmp_path.iterdir()) == []


def test_b8_the_best_member_of_a_sweep_is_saved_and_restored(tmp_path):
    model, base = LoRA(Plain(), CONFIG), variables(Plain())["params"]
    members = sweep.grid(ranks=(1, 3), learning_rates=(0.1,), seeds=(0,))
    stacked = sweep.init_adapters(model, members, X, base_params=base)

    def loss_fn(params, batch, key):
        return jnp.mean(model.apply({"params": params}, batch) ** 2), ()

    trainer = sweep.Sweep(loss_fn, optax.sgd)
    state = trainer.start(stacked, trainable_mask(stacked), members=members)
    state, _ = trainer.run(state, base, X, jnp.arange(16).reshape(4, 4))
    for i, member in enumerate(members):
        config, params = sweep.member(state, base, members, i)
        assert config.rank == member.rank
        checkpoint.save_adapter(tmp_path / str(i), params, config, mask=None)
        found = checkpoint.load(tmp_path / str(i), base, Plain())
        assert_equal(found.params, params)
        padded = sweep.member_params(state, base, i)
        np.testing.assert_allclose(
            found.model.apply({"params": found.params}, X), model.apply({"params": padded}, X), rtol=1e-5
        )


# B3 in NNX


class NormedNNX(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.norm = nnx.Linear(5, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.hidden(x))


def test_b3_batch_statistics_of_an_nnx_model_are_saved_and_come_back(tmp_path):
    wrapper = lora_jax.nnx.LoRA(NormedNNX(nnx.Rngs(0)), LoRAConfig(rank=2, targets="hidden"))
    model = wrapper.inject(randomised(wrapper.init(jax.random.key(0))["params"], 1))
    wrapper.params_of(model)  # nothing has changed: no word
    model.train()
    model(X)
    model.eval()
    with pytest.warns(
        UnsavedStateWarning, match=r"norm/mean has changed in training and is no parameter: keep .*statistics_of"
    ):
        params = wrapper.params_of(model)
    statistics = lora_jax.nnx.statistics_of(model)
    checkpoint.save_adapter(tmp_path, params, wrapper.config, mask=None, collections={"batch_stats": statistics})
    found = checkpoint.load(tmp_path, wrapper.base_params, wrapper.base_module)
    back = found.model.inject(found.params, statistics=found.collections["batch_stats"])
    back.eval()
    np.testing.assert_array_equal(back(X), model(X))
    old = found.model.inject(found.params)
    old.eval()
    assert np.abs(old(X) - model(X)).max() > 1e-2
    wrapper.params_of(model, statistics=statistics)  # they are kept: no word
    with pytest.warns(UnsavedStateWarning, match=r"norm/mean has changed .* params_of\(model, statistics=statistics\)"):
        wrapper.params_of(model, statistics=jax.tree.map(jnp.zeros_like, statistics))
    with pytest.raises(TreeError, match="the statistics are not this model's: missing norm/var"):
        found.model.inject(found.params, statistics={"norm": {"mean": statistics["norm"]["mean"]}})
