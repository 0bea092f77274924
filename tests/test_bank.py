"""Mixed batches: is each example's answer, and each adapter's gradient, that of a run of its own?"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import LoRA, LoRAConfig, LoRAError, adapter_of, bank, combine, strip, training
from lora_jax.models.mlp import MLP
from tests.cases import Case, assert_trees_close, case_named, flat, randomised

pytestmark = pytest.mark.usefixtures("quick_compile")
IDS = jnp.array([1, -1, 0, 2, 1])
NAMES = ("dense", "attention", "tied_scan_remat", "conv_2d_groups", "embed", "einsum_batch_labels")
CASES = [case_named(name)._replace(shape=(len(IDS), *case_named(name).shape[1:])) for name in NAMES]
CASES += [case.variant(dora=True) for case in CASES]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@functools.cache
def adapters(case: Case) -> tuple[dict, ...]:
    """Three, of ranks 2, 3 and 2, on the base of `case.params()`."""
    base, found = strip(case.params()), []
    for seed, rank in ((3, 2), (4, 3), (5, 2)):
        shapes = jax.eval_shape(case.variant(rank=rank).model().init, jax.random.key(0), case.x())["params"]
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), adapter_of(shapes))
        found.append(adapter_of(randomised(combine(base, zeros), seed)))
    return tuple(found)


def alone(case: Case, adapter: dict | None, x: jax.Array) -> jax.Array:
    base = strip(case.params())
    return case.base_apply()(base, x) if adapter is None else case.apply()(combine(base, adapter), x)


def mixed(case: Case, stacked, ids=IDS):
    return bank.apply(case.model(), strip(case.params()), stacked, ids, case.x())


@every_case
def test_each_example_runs_through_its_own_adapter(case):
    stacked = bank.stack(strip(case.params()), adapters(case))
    got = jax.jit(lambda stacked: mixed(case, stacked))(stacked)
    for i, which in enumerate(IDS):
        adapter = None if which == -1 else adapters(case)[which]
        assert_trees_close(got[i], alone(case, adapter, case.x()[i : i + 1])[0])


@every_case
def test_each_adapter_s_gradient_comes_from_its_own_examples(case):
    stacked, base, x = bank.stack(strip(case.params()), adapters(case)), strip(case.params()), case.x()
    got = jax.jit(jax.grad(lambda stacked: jnp.sum(mixed(case, stacked) ** 2)))(stacked)

    def loss(alone):
        each = (combine(base, alone[which]) if which >= 0 else base for which in np.asarray(IDS).tolist())
        return sum(jnp.sum(case.model().apply({"params": tree}, x[i : i + 1]) ** 2) for i, tree in enumerate(each))

    for which, expected in enumerate(map(flat, jax.jit(jax.grad(loss))(list(adapters(case))))):
        for path, gradient in flat(got).items():
            if path.endswith(("lora_a", "lora_b", "lora_magnitude")):
                without_padding = tuple(map(slice, expected[path].shape))
                assert_trees_close(gradient[which][without_padding], expected[path])


def test_ids_swap_without_a_new_trace():
    case = CASES[1]
    stacked, traces = bank.stack(strip(case.params()), adapters(case)), []

    @jax.jit
    def run(stacked, ids):
        traces.append(1)
        return mixed(case, stacked, ids)

    one, other = run(stacked, IDS), run(stacked, IDS[::-1])
    assert len(traces) == 1
    assert np.abs(np.asarray(one - other)).max() > 1e-3


def test_an_adapter_brings_its_own_head():
    base_module, x = MLP(hidden=(4,), classes=3), jnp.ones((3, 5))
    base = base_module.init(jax.random.key(0), x)["params"]
    model = LoRA(base_module, LoRAConfig(rank=2, targets="hidden_0"))
    params = [randomised(model.init(jax.random.key(seed), x)["params"], seed) for seed in (1, 2)]
    own = [{**adapter_of(params[0]), "classifier": params[0]["classifier"]}, adapter_of(params[1])]
    got = bank.apply(model, base, bank.stack(base, own), jnp.array([0, 1, -1]), x)
    expected = [
        model.apply({"params": {**combine({"hidden_0": base["hidden_0"]}, own[0])}}, x[:1]),
        model.apply({"params": combine(base, own[1])}, x[:1]),
        base_module.apply({"params": base}, x[:1]),
    ]
    assert_trees_close(got, jnp.concatenate(expected))


def test_a_layer_that_only_some_adapt_is_the_base_s_for_the_others():
    case = case_named("attention")._replace(shape=(2, 3, 4))
    whole = adapter_of(case.params())
    part = {"attention": {"query": whole["attention"]["query"]}}
    base = strip(case.params())
    got = bank.apply(case.model(), base, bank.stack(base, [whole, part]), jnp.array([0, 1]), case.x())
    assert_trees_close(got[1], case.apply()(combine(base, part), case.x()[1:])[0], 2e-5)


def some_dora():
    plain, dora = case_named("dense"), case_named("dense").variant(dora=True)
    return bank.stack(strip(plain.params()), [adapter_of(plain.params()), adapter_of(dora.params())])


def another_base():
    return bank.stack(
        strip(case_named("dense").params()), [adapter_of(case_named("dense_unbatched").variant(rank=1).params())]
    )


def on_dense(ids, x=None):
    case = CASES[0]
    stacked = bank.stack(strip(case.params()), adapters(case))
    return bank.apply(case.model(), strip(case.params()), stacked, ids, case.x() if x is None else x)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: on_dense(jnp.array([0, 1, 2, 3, 0])), "no adapter 3; the bank has 0 to 2"),
        (lambda: on_dense(jnp.array([0, 1, 2, -2, 0])), "no adapter -2"),
        (lambda: on_dense(jnp.zeros(5)), "one integer for each example"),
        (lambda: on_dense(IDS, jnp.ones((4, 3, 4))), r"different numbers of examples: \[4, 5\]"),
        (some_dora, "in some of the adapters only"),
        (lambda: bank.stack(strip(CASES[0].params()), [adapter_of(CASES[3].params())]), "adapter 0 is of another base"),
        (lambda: bank.stack(strip(CASES[0].params()), [strip(CASES[0].params())]), "hold no adapter"),
    ],
)
def test_what_cannot_be_mixed_says_so(act, message):
    with pytest.raises(LoRAError, match=message):
        act()


def test_per_example_gradients_add_up_to_the_batch_s():
    case = case_named("attention")._replace(shape=(5, 3, 4))
    base, adapter, x = strip(case.params()), adapter_of(case.params()), case.x()

    def loss_fn(params, batch, key):
        return jnp.mean(case.model().apply({"params": params}, batch) ** 2), None

    losses, each = jax.jit(training.per_example_gradients(loss_fn))(adapter, base, x, jax.random.key(0))
    whole = jax.jit(jax.grad(lambda adapter: loss_fn(combine(base, adapter), x, None)[0]))(adapter)
    assert losses.shape == (5,)
    assert_trees_close(jax.tree.map(lambda leaf: leaf.mean(axis=0), each), whole, 2e-5)
    alone = jax.jit(jax.grad(lambda adapter: loss_fn(combine(base, adapter), x[2:3], None)[0]))(adapter)
    assert_trees_close(jax.tree.map(lambda leaf: leaf[2], each), alone, 2e-5)


def test_adapted_trees_may_be_given_whole():
    case = CASES[0]
    base = strip(case.params())
    whole = [combine(base, adapter) for adapter in adapters(case)]
    assert flat(bank.stack(base, whole)).keys() == flat(bank.stack(base, adapters(case))).keys()


def test_adapters_in_the_base_are_none_of_the_bank():
    case, x = case_named("attention")._replace(shape=(2, 3, 4)), case_named("attention").x()
    params = case.params()
    part = {"attention": {"query": adapter_of(randomised(params, 4))["attention"]["query"]}}
    ids, stacked = jnp.array([0, -1]), bank.stack(params, [part])
    got = bank.apply(case.model(), params, stacked, ids, x)
    assert_trees_close(got, bank.apply(case.model(), strip(params), stacked, ids, x), 1e-6)


class Masked(nn.Module):
    @nn.compact
    def __call__(self, x, *, mask=None, extra=None, factor=1.0, train: bool = False):
        y = factor * nn.Dense(4, name="dense")(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        y = y if mask is None else y * mask[..., None]
        return y if extra is None else y + extra["bias"] * extra["times"]


@functools.cache
def masked():
    """(model, base, collections, two adapters, x)"""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 5)), jnp.float32)
    model = LoRA(Masked(), LoRAConfig(rank=2, targets="*"))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    state = jax.tree.map(lambda leaf: leaf + 0.5, variables["batch_stats"])
    own = [adapter_of(randomised(variables["params"], seed)) for seed in (3, 4)]
    return model, strip(variables["params"]), {"batch_stats": state}, own, x


def run_masked(stacked=None, **kwargs):
    model, base, collections, own, x = masked()
    stacked = bank.stack(base, own) if stacked is None else stacked
    return bank.apply(model, base, stacked, jnp.array([1, -1, 0]), x, collections=collections, **kwargs)


def test_arrays_by_keyword_and_other_collections_are_those_of_separate_runs():
    model, base, collections, own, x = masked()
    mask = jnp.asarray([[1.0, 0, 0], [0, 1, 0], [1, 1, 0.5]])
    extra = {"bias": jnp.arange(3.0)[:, None, None] * jnp.ones((3, 1, 4)), "times": 2.0}
    got = run_masked(mask=mask, extra=extra, factor=jnp.asarray(0.5), train=False)
    for i, adapter in enumerate([own[1], None, own[0]]):
        variables = {**collections, "params": base if adapter is None else combine(base, adapter)}
        one = {"bias": extra["bias"][i : i + 1], "times": 2.0}
        expected = model.apply(variables, x[i : i + 1], mask=mask[i : i + 1], extra=one, factor=0.5)
        assert_trees_close(got[i], expected[0])


def of_another_model():
    return bank.stack(strip(CASES[0].params()), [case_named("attention").params()])


def test_every_example_drops_out_on_its_own():
    model = LoRA(nn.Dense(6), LoRAConfig(rank=2, targets="*", dropout=0.5))
    x = jnp.ones((4, 8))
    params = randomised(model.init(jax.random.key(0), x)["params"], seed=3)
    stacked = bank.stack(strip(params), [adapter_of(params)])
    got = bank.apply(model, strip(params), stacked, [0, 0, 0, -1], x, rngs={"dropout": jax.random.key(1)})
    assert len({tuple(np.asarray(row).round(4)) for row in got}) == 4


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: bank.stack(strip(CASES[0].params()), []), "no adapters"),
        (
            lambda: bank.apply(
                CASES[0].model(), {}, bank.stack(strip(CASES[0].params()), adapters(CASES[0])), IDS, False
            ),
            "must be an array",
        ),
        (of_another_model, "adapter 0 is of another base: attention/.* is not in it"),
        (lambda: run_masked(mask=jnp.ones((2, 3))), r"mask is an array \(2, 3\) and there are 3 examples"),
        (lambda: run_masked(extra={"bias": jnp.ones(4), "times": 1}), r"extra/bias is an array \(4,\)"),
        (lambda: run_masked(train=True, mutable=["batch_stats"]), "without mutable"),
        (lambda: run_masked(rngs=jax.random.key(0)), "must name its streams"),
        (lambda: run_masked(stacked={}), "the bank is empty"),
        (lambda: run_masked(stacked=masked()[3][0]), "without one first axis for all; make it by lora_jax.bank.stack"),
        (
            lambda: bank.stack({}, [{"lora_b": jnp.ones((2, 3)), "lora_scale": jnp.ones(())}]),
            "adapter 0 is of another base: there is lora_b and no lora_a",
        ),
    ],
)
def test_what_is_no_batch_says_so(act, message):
    with pytest.raises(LoRAError, match=message):
        act()
