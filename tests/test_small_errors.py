"""Arguments in the wrong place, names of other libraries, trees that are not whole: one sentence each, which says what to write."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lora_jax
import lora_jax.nnx
from lora_jax import LoRA, LoRAConfig, LoRAError

pytestmark = pytest.mark.usefixtures("quick_compile", "as_users_run_it")
KEY, X = jax.random.key(0), jnp.ones((1, 3, 8))


class Net(nn.Module):
    """With batch statistics."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="head")(nn.BatchNorm(use_running_average=True, name="norm")(x))


NET = Net()
VARIABLES = NET.init(KEY, X)
BASE = VARIABLES["params"]
MODEL = LoRA(NET, LoRAConfig(rank=2, targets="head"))
PARAMS = lora_jax.adapt(KEY, BASE, MODEL, X)
LAYOUT = lora_jax.layout(NET, X)
TAKERS = {  # what takes a tree of parameters
    "adapter_of": lora_jax.adapter_of,
    "strip": lora_jax.strip,
    "merge": lora_jax.merge,
    "rounding_error": lora_jax.rounding_error,
    "report": lora_jax.report,
    "spectrum": lora_jax.spectrum,
    "trainable_mask": lora_jax.trainable_mask,
    "scaled": functools.partial(lora_jax.scaled, factor=0.5),
    "swap": lambda tree: lora_jax.swap(tree, lora_jax.adapter_of(PARAMS)),
    "swap to": functools.partial(lora_jax.swap, PARAMS),
    "rebase": functools.partial(lora_jax.rebase, BASE),
    "verify": lambda tree: lora_jax.verify(MODEL, tree, X, collections={"batch_stats": VARIABLES["batch_stats"]}),
    "bank": lambda tree: lora_jax.bank.stack(BASE, [tree]),
    "quantise": lambda tree: lora_jax.quantised.quantise(tree, LAYOUT),
    "average": lambda tree: lora_jax.algebra.average(tree, lora_jax.adapter_of(PARAMS)),
    "recompress": lambda tree: lora_jax.algebra.recompress(tree, 1),
    "place": lambda tree: lora_jax.mesh.place(tree, lora_jax.mesh.make(model=jax.device_count())),
    "combine": lambda tree: lora_jax.combine(tree, {}),
    "partition": lambda tree: lora_jax.partition(tree, jax.tree.map(lambda _: True, tree)),
}
TAKES_ANY = {"combine", "partition", "place"}  # of leaves: any, also a part of an adapter
TAKES_PARTS = {"strip", "adapter_of", "scaled"}  # also the frozen part of an adapter


def refused(call, *words):
    with pytest.raises(LoRAError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    assert all(word in message for word in words), message


@pytest.mark.parametrize("taker", TAKERS)
def test_b2_variables_in_place_of_params(taker):
    refused(lambda: TAKERS[taker]({**VARIABLES, "params": PARAMS}), 'variables["params"]')


def test_b2_variables_given_to_adapt():
    for base in (VARIABLES, {"params": BASE}):
        refused(lambda base=base: lora_jax.adapt(KEY, base, MODEL, X), 'variables["params"]')
    refused(lambda: lora_jax.eva.adapt_to(KEY, VARIABLES, MODEL, [(X,)]), 'variables["params"]')


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize(
    "other", [MODEL, None, KEY, [1], nnx.Linear(1, 1, rngs=nnx.Rngs(0))], ids=lambda v: type(v).__name__
)
def test_b2_something_else_in_place_of_params(taker, other):
    if taker != "partition":
        refused(lambda: TAKERS[taker](other), "nested dicts of arrays")


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ((BASE, KEY, MODEL, X), "a PRNG key comes first"),
        ((MODEL, BASE, KEY, X), "a PRNG key comes first"),
        ((0, BASE, MODEL, X), "the key is an int"),
        ((KEY, MODEL, BASE, X), "the third argument is the wrapped model"),
        ((KEY, BASE, NET, X), "lora_jax.LoRA(module, config)"),
        ((KEY, BASE, MODEL), "missing a required argument: 'x'"),
    ],
    ids=range(6),
)
def test_b2_arguments_of_adapt_in_another_order(args, word):
    refused(lambda: lora_jax.adapt(*args), word)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: LoRA(LoRAConfig(rank=2), NET), "write LoRA(model, lora_jax.LoRAConfig"),
        (lambda: LoRA(NET), "LoRAConfig"),
        (lambda: LoRA(NET, {"rank": 2}), "a dict for its config"),
        (lambda: lora_jax.nnx.LoRA(NET, LoRAConfig(rank=2)), "lora_jax.LoRA is for linen"),
        (lambda: MODEL.apply(PARAMS, X), 'write {"params": params}'),
        (lambda: MODEL.apply(X, PARAMS), "it takes variables"),
        (lambda: MODEL.init(X, KEY), "a PRNG key comes first"),
        (lambda: lora_jax.layout(BASE, NET, X), "this is a dict"),
        (lambda: lora_jax.layout(NET), "missing a required argument: 'x'"),
        (lambda: lora_jax.quantised.quantise(LAYOUT, BASE), "the layout is"),
        (lambda: lora_jax.lora_optimizer(lora_jax.trainable_mask(PARAMS), optax.sgd(1.0)), "for its optimiser"),
        (lambda: lora_jax.partition(lora_jax.trainable_mask(PARAMS), PARAMS), "the mask has an array"),
        (lambda: lora_jax.training.init_state(PARAMS, KEY, optax.sgd(1.0)), "for its optimiser"),
        (lambda: lora_jax.scaled(0.5, PARAMS), "params is a float"),
    ],
    ids=range(14),
)
def test_b2_arguments_in_another_order(call, word):
    refused(call, word)


def test_b2_nnx_and_functions_take_variables_too():
    nnx_model = lora_jax.nnx.LoRA(nnx.Linear(8, 4, rngs=nnx.Rngs(0)), LoRAConfig(rank=2))
    function = LoRA(lambda params, x: x @ params["w"], LoRAConfig(rank=2))
    for model, params in (
        (nnx_model, nnx_model.init(KEY)["params"]),
        (function, function.init(KEY, {"w": jnp.ones((8, 4))}, X)["params"]),
    ):
        refused(lambda model=model, params=params: model.apply(params, X), 'write {"params": params}')
    refused(lambda: nnx_model.inject({"params": {}}), 'variables["params"]')
    refused(lambda: lora_jax.merge(nnx.state(nnx_model.base_module)), "nnx.State")


def test_b2_names_of_other_libraries():
    refused(lambda: LoRAConfig(r=8, lora_alpha=16, target_modules=["q"]), "r is written rank=", "alpha=", "targets=")
    refused(lambda: LoRAConfig(module_path=".*", rank=2, weight_qtype="nf4"), "targets=", "quantise")
    refused(lambda: LoRAConfig(rank=2, alhpa=3), "closest to alhpa: alpha")
    refused(lambda: LoRAConfig.from_dict({"r": 8}), "r is written rank=")


@pytest.mark.parametrize("rank", [np.int64(4), np.int8(4), jnp.asarray(4), np.asarray(4)], ids=lambda v: str(type(v)))
def test_b2_numbers_of_numpy_are_numbers(rank):
    config = LoRAConfig(rank=rank, alpha=np.float32(0.5), dropout=jnp.asarray(0.25), rank_pattern={"head": rank})
    assert config == LoRAConfig(rank=4, alpha=0.5, dropout=0.25, rank_pattern={"head": 4})
    assert type(config.rank) is int and type(config.alpha) is float and hash(config) is not None
    assert LoRAConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "fields",
    [
        {"rank": True},
        {"rank": np.bool_(True)},
        {"rank": jnp.asarray(True)},
        {"rank": 4.0},
        {"rank": np.float32(4)},
        {"rank": "4"},
        {"rank": np.ones(1, int) * 0},
        {"rank": 2, "alpha": np.float32("nan")},
        {"rank": 2, "alpha": np.inf},
        {"rank": 2, "alpha": jnp.asarray(jnp.nan)},
        {"rank": 2, "alpha": True},
        {"rank": 2, "alpha": 1e-60},
        {"rank": 2, "alpha": "16"},
        {"rank": 2, "dropout": np.nan},
        {"rank": 2, "rank_pattern": {"q": False}},
        {"rank": 2, "rank_pattern": [("q", 1), ("q", 2)]},
        {"rank": 2, "rank_pattern": ["q"]},
        {"rank": 2, "init_a": {"name": "normal"}},
    ],
    ids=range(18),
)
def test_b2_what_is_no_such_number_is_refused(fields):
    refused(lambda: LoRAConfig(**fields))


@pytest.mark.parametrize("leaf", ["lora_a", "lora_b", "lora_scale"])
@pytest.mark.parametrize("taker", sorted(set(TAKERS) - TAKES_ANY - TAKES_PARTS))
def test_b12_a_part_of_an_adapter_is_missing(taker, leaf):
    head = {name: value for name, value in PARAMS["head"].items() if name != leaf}
    refused(lambda: TAKERS[taker]({**PARAMS, "head": head}), leaf)


@pytest.mark.parametrize("taker", sorted(set(TAKERS) - TAKES_ANY))
@pytest.mark.parametrize(
    "value", [None, "text", np.array([object()]), np.array(["a"]), [1.0], {1, 2}], ids=lambda v: type(v).__name__
)
@pytest.mark.parametrize("leaf", ["lora_b", "kernel"])
def test_b12_a_leaf_that_is_no_array(taker, value, leaf):
    refused(lambda: TAKERS[taker]({**PARAMS, "head": {**PARAMS["head"], leaf: value}}), f"head/{leaf}")


@pytest.mark.parametrize("taker", sorted(set(TAKERS) - TAKES_ANY - TAKES_PARTS))
def test_b12_integers_where_floats_are_needed(taker):
    head = {**PARAMS["head"], "lora_b": jnp.ones((2, 4), jnp.int32)}
    refused(lambda: TAKERS[taker]({**PARAMS, "head": head}), "head/lora_b")


@pytest.mark.parametrize(
    "pattern", ["re:(", "re:*", "re:(?P<a>x)(?P<a>y)", "re:a{99999999999}", "", "/", 3, None, b"head"], ids=repr
)
def test_b12_patterns_that_are_none(pattern):
    for field in ("targets", "excludes", "rank_pattern", "alpha_pattern", "roles"):
        told = {"rank_pattern": {pattern: 1}, "alpha_pattern": {pattern: 1}, "roles": {pattern: "io"}}.get(
            field, [pattern]
        )
        refused(lambda field=field, told=told: LoRAConfig(rank=2, **{field: told}), field)
    refused(lambda: lora_jax.trainable_mask(PARAMS, train=[pattern]), "train")
    refused(lambda: lora_jax.quantised.quantise(BASE, LAYOUT, excludes=[pattern]), "excludes")


def test_b12_a_compiled_regex_names_what_trains():
    import re

    mask = lora_jax.trainable_mask(PARAMS, train=re.compile("norm/.*"))
    assert mask["norm"] == {"bias": True, "scale": True}


def test_a_collection_that_is_not_given_is_named():
    adapter = lora_jax.adapter_of(PARAMS)
    for call in (
        lambda: lora_jax.verify(MODEL, PARAMS, X),
        lambda: lora_jax.bank.apply(MODEL, BASE, lora_jax.bank.stack(BASE, [adapter]), jnp.array([0]), X),
    ):
        refused(call, "batch_stats", 'collections={"batch_stats": variables["batch_stats"]}')


def test_layout_says_that_a_function_s_parameters_come_first():
    def fn(params, x):
        return x @ params["w"]

    refused(lambda: lora_jax.layout(fn, jnp.ones((2, 8))), "does not fit fn", "layout(fn, params, x)")
    assert list(lora_jax.layout(fn, {"w": jnp.ones((8, 4))}, jnp.ones((2, 8)))) == ["w:io"]


def test_an_nnx_model_is_refused_where_it_is_wrapped():
    refused(lambda: LoRA(nnx.Linear(8, 4, rngs=nnx.Rngs(0)), LoRAConfig(rank=2)), "lora_jax.nnx.LoRA")
