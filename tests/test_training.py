"""Is training LoRA's gradients and nothing else, in one trace, and does evaluation count every example once?"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lora_jax import (
    LoRA,
    LoRAConfig,
    LoRAError,
    adapt,
    adapter_of,
    combine,
    partition,
    scaled,
    swap,
    trainable_mask,
    training,
)
from lora_jax.models.mlp import MLP
from tests.cases import assert_trees_close, dense_base, equations, flat, randomised

N = 22
DATA = {
    "x": jnp.asarray(np.random.default_rng(0).normal(size=(N, 5)), jnp.float32),
    "y": jnp.asarray(np.random.default_rng(1).integers(3, size=N), jnp.int32),
}
MODEL = LoRA(MLP(hidden=(4,), classes=3, dropout=0.2), LoRAConfig(rank=2, dropout=0.1))


def loss_fn(params, batch, key):
    logits = MODEL.apply({"params": params}, batch["x"], train=True, rngs={"dropout": key})
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), {"logits": logits.sum()}


@functools.cache
def start():
    base = jax.jit(MODEL.base_module.init)(jax.random.key(0), DATA["x"])["params"]
    params = randomised(adapt(jax.random.key(1), base, MODEL, DATA["x"]), seed=3)
    return partition(params, trainable_mask(params, train="classifier"))


def counted(loss):
    """The loss, and the list that grows by one with every trace of it."""
    traces = []

    def wrapped(*args):
        traces.append(1)
        return loss(*args)

    return wrapped, traces


def order_of(epoch):
    return training.epoch_order(jax.random.key(5), epoch, N, 4)


# What trains


def test_the_train_step_leaves_the_base_and_changes_all_that_trains():
    frozen, trainable = start()
    before = jax.tree.map(np.array, frozen)
    tx = optax.adamw(1e-2)
    step, state = training.make_train_step(loss_fn, tx), training.init_state(trainable, tx, jax.random.key(2))
    for _ in range(3):
        state, (loss, metrics) = step(state, frozen, DATA)
    jax.tree.map(np.testing.assert_array_equal, frozen, before)
    assert all(np.any(np.asarray(new) != flat(trainable)[path]) for path, new in flat(state.trainable).items())
    assert (int(state.step), loss.shape, metrics["logits"].shape) == (3, (), ())


def test_a_step_is_the_gradient_step_of_the_merged_model():
    """One SGD step, against jax.grad through W + scale * a @ b and the base module."""
    frozen, trainable = start()
    base = MLP(hidden=(4,), classes=3)

    def expected_loss(trainable):
        logits = base.apply({"params": dense_base(combine(frozen, trainable), jnp)}, DATA["x"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, DATA["y"]).mean()

    def plain_loss(params, batch, key):
        logits = LoRA(base, LoRAConfig(rank=2)).apply({"params": params}, batch["x"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), ()

    expected, gradients = jax.jit(jax.value_and_grad(expected_loss))(trainable)
    state = training.init_state(trainable, optax.sgd(0.5), jax.random.key(2))
    state, (loss, _) = training.make_train_step(plain_loss, optax.sgd(0.5))(state, frozen, DATA)
    assert_trees_close(loss, expected, 1e-6)
    steps = jax.tree.map(lambda old, new: (old - new) / 0.5, dict(trainable), state.trainable)
    assert_trees_close(steps, gradients, 2e-5)


def test_donation_takes_nothing_from_the_caller():
    frozen, trainable = start()
    key, tx = jax.random.key(2), optax.adam(1e-2)
    training.make_train_step(loss_fn, tx)(training.init_state(trainable, tx, key), frozen, DATA)
    assert np.isfinite(jax.random.normal(key))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((frozen, trainable, DATA)))


# Epochs


def test_an_epoch_is_its_steps_one_by_one():
    frozen, trainable = start()
    tx = optax.adamw(1e-2)
    state, step = training.init_state(trainable, tx, jax.random.key(2)), training.make_train_step(loss_fn, tx)
    losses = []
    for rows in order_of(0):
        state, (loss, _) = step(state, frozen, jax.tree.map(lambda leaf: leaf[rows], DATA))  # noqa: B023
        losses.append(loss)
    fresh = training.init_state(trainable, tx, jax.random.key(2))
    got, (got_losses, metrics) = training.make_epoch(loss_fn, tx)(fresh, frozen, DATA, order_of(0))
    assert_trees_close(got_losses, np.stack(losses), 1e-6)
    assert_trees_close(got.trainable, state.trainable)
    assert metrics["logits"].shape == (5,)


def test_every_step_has_its_own_dropout_key():
    frozen, trainable = start()
    tx = optax.sgd(0.0)
    epoch = training.make_epoch(loss_fn, tx)
    same_batch = jnp.zeros((4, 6), jnp.int32)
    _, (losses, _) = epoch(training.init_state(trainable, tx, jax.random.key(2)), frozen, DATA, same_batch)
    assert len(np.unique(losses)) == 4


def test_epoch_order_is_a_permutation_of_its_key_and_epoch():
    orders = [np.asarray(order_of(epoch)) for epoch in (0, 1, 0)]
    assert orders[0].shape == (5, 4)
    assert len(np.unique(orders[0])) == 20
    assert set(orders[0].ravel()) <= set(range(N))
    np.testing.assert_array_equal(orders[0], orders[2])
    assert np.any(orders[0] != orders[1])


@pytest.mark.parametrize("batch_size", [0, -1, N + 1])
def test_epoch_order_refuses_an_impossible_batch(batch_size):
    with pytest.raises(LoRAError, match=f"batch_size is {batch_size}"):
        training.epoch_order(jax.random.key(0), 0, N, batch_size)


# Traces


def test_one_trace_for_epochs_swapped_adapters_and_scales():
    frozen, trainable = start()
    tx = optax.adam(1e-3)
    loss, traces = counted(loss_fn)
    epoch = training.make_epoch(loss, tx)
    params = combine(frozen, trainable)
    others = [params, swap(params, adapter_of(randomised(params, seed=7))), scaled(params, 0.5), scaled(params, 0.0)]
    seen = set()
    for i, other in enumerate(others):
        frozen, trainable = partition(other, trainable_mask(other, train="classifier"))
        state = training.init_state(trainable, tx, jax.random.key(i))
        for number in range(2):
            state, (losses, _) = epoch(state, frozen, DATA, order_of(number))
        seen.add(float(losses[-1]))
    assert len(seen) == 4  # each did something else
    assert len(traces) == 1


def test_one_trace_for_inference_with_the_adapter_on_off_and_swapped():
    params = combine(*start())
    apply, traces = counted(lambda params, x: MODEL.apply({"params": params}, x))
    run = jax.jit(apply)
    other = randomised(params, seed=7)
    for each in (params, swap(params, adapter_of(other)), scaled(params, 0.0), scaled(params, jnp.asarray(2.0))):
        expected = MODEL.base_module.apply({"params": dense_base(each)}, DATA["x"])
        assert_trees_close(run(each, DATA["x"]), expected)
    assert len(traces) == 1


# Cost


def dot_shapes(jaxpr):
    """Output shapes of every dot_general in a jaxpr and in the jaxprs inside it."""
    return (e.outvars[0].aval.shape for e in equations(jaxpr) if e.primitive.name == "dot_general")


@functools.cache
def s3_step(train):
    """(jaxpr, jitted step, its arguments as shapes) of a step of S3's MLP; train=("*",) is full fine-tuning."""
    model = LoRA(MLP(hidden=(512, 256, 128)), LoRAConfig(rank=16))
    x, y = jax.ShapeDtypeStruct((64, 784), jnp.float32), jax.ShapeDtypeStruct((64,), jnp.int32)
    base = model.base_module if train else model
    params = jax.eval_shape(base.init, jax.random.key(0), x)["params"]
    frozen, trainable = partition(params, trainable_mask(params, train=train))

    def loss(params, batch, key):
        logits = base.apply({"params": params}, batch[0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean(), ()

    tx = optax.adam(1e-3)
    state = jax.eval_shape(lambda t: training.init_state(t, tx, jax.random.key(0)), trainable)
    step, args = training.make_step(loss, tx), (state, frozen, (x, y))
    return jax.make_jaxpr(step)(*args).jaxpr, jax.jit(step), args


KERNELS = {(784, 512), (512, 256), (256, 128), (128, 10)}


def weight_shaped(train):
    shapes = set(dot_shapes(s3_step(train)[0]))
    return KERNELS & (shapes | {shape[::-1] for shape in shapes})


def test_no_gradient_of_lora_has_the_shape_of_a_weight():
    assert weight_shaped(train=()) == set()
    assert {(784, 16), (16, 512)} <= {s for shape in dot_shapes(s3_step(())[0]) for s in (shape, shape[::-1])}


def test_full_fine_tuning_has_such_gradients_so_the_test_above_can_fail():
    assert weight_shaped(train=("*",)) == KERNELS


def test_a_lora_step_costs_at_most_72_percent_of_full_fine_tuning():
    flops = [step.lower(*args).compile().cost_analysis()["flops"] for _, step, args in map(s3_step, [(), ("*",)])]
    assert flops[0] <= 0.72 * flops[1]


# Evaluation


@pytest.mark.parametrize("batch_size", [1, 5, N, 2 * N])
def test_evaluation_counts_every_example_once(batch_size):
    frozen, trainable = start()
    params = combine(frozen, trainable)

    def metric_fn(params, batch):
        logits = MODEL.apply({"params": params}, batch["x"])
        return {"one": jnp.ones(len(batch["y"]), jnp.int32), "logits": logits, "hit": logits.argmax(-1) == batch["y"]}

    got = jax.jit(training.make_evaluation(metric_fn, batch_size))(params, DATA)
    logits = np.asarray(MODEL.base_module.apply({"params": dense_base(params)}, DATA["x"]))
    assert int(got["one"]) == N
    assert int(got["hit"]) == np.sum(logits.argmax(-1) == np.asarray(DATA["y"]))
    np.testing.assert_allclose(got["logits"], logits.sum(axis=0), rtol=1e-5, atol=1e-5)


def test_padding_cannot_spoil_the_sums():
    """Padding repeats example 0: an infinity there must count once, and must not turn into NaN."""
    data = jnp.asarray([jnp.inf, 1.0, 2.0])
    got = training.make_evaluation(lambda params, batch: batch, 2)({}, data)
    assert got == jnp.inf
    assert float(training.make_evaluation(lambda params, batch: jnp.ones_like(batch), 2)({}, data)) == 3


def test_layers_of_a_scan_that_read_the_same_input_keep_it_once():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return jnp.tanh(sum(nn.Dense(8, name=name)(x) for name in "qkv")), None

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
            return layers()(x, None)[0]

    def wide(model, train):
        """How many arrays as large as the input each layer hands to its backward pass."""
        params = model.init(jax.random.key(0), x)["params"]
        frozen, trainable = partition(params, trainable_mask(params, train=train))
        gradient = jax.grad(lambda trainable: model.apply({"params": combine(frozen, trainable)}, x).sum())
        forward = next(e for e in equations(jax.make_jaxpr(gradient)(trainable).jaxpr) if e.primitive.name == "scan")
        return sum(out.aval.size == 2 * x.size for out in forward.outvars)

    x = jnp.ones((4, 5, 8))
    # Which of the input, the sum and its tanh a layer keeps is JAX's affair: three arrays up to 0.10, two from 0.11 on.
    assert wide(LoRA(Stack(), LoRAConfig(rank=2)), ()) == wide(Stack(), ("*",)) <= 3


def _weighed(params, batch, key):
    """A mean over what is scored, which rows have different numbers of."""
    logits = MODEL.apply({"params": params}, batch["x"], train=False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
    return (losses * batch["w"]).sum() / batch["w"].sum(), {"count": batch["w"].sum()}


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_a_batch_in_parts_is_the_batch_at_once(parts):
    """Weights that differ from part to part: a mean of means would be another step."""
    frozen, trainable = start()
    weights = jnp.asarray(np.random.default_rng(2).integers(0, 9, 12), jnp.float32)
    batch = {"x": DATA["x"][:12], "y": DATA["y"][:12], "w": weights}

    def stepped(**more):
        tx = optax.sgd(0.5)
        step = training.make_train_step(_weighed, tx, **more)
        return step(training.init_state(trainable, tx, jax.random.key(0)), frozen, batch)

    whole, (loss, _) = stepped()
    cut, (of_parts, metrics) = stepped(parts=parts, weight=lambda part: part["w"].sum())
    assert float(of_parts) == pytest.approx(float(loss), abs=1e-6)
    assert_trees_close(cut.trainable, whole.trainable, 1e-6)
    assert metrics["count"].shape == (parts,) and float(metrics["count"].sum()) == float(weights.sum())
    unweighed, _ = stepped(parts=parts)
    with pytest.raises(AssertionError):
        assert_trees_close(unweighed.trainable, whole.trainable, 1e-6)


def test_parts_that_a_batch_does_not_have_are_refused():
    frozen, trainable = start()
    tx = optax.sgd(0.5)
    step = training.make_step(loss_fn, tx, parts=5)
    state = training.init_state(trainable, tx, jax.random.key(0))
    with pytest.raises(LoRAError, match="parts is 5, and a batch has 22 rows"):
        step(state, frozen, DATA)
    with pytest.raises(LoRAError, match="parts"):
        training.make_step(loss_fn, tx, parts=0)
