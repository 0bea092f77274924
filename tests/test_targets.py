"""Do patterns select what they say, and does one that selects nothing never pass in silence?"""

import re

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import pytest

from lora_jax import LoRA, LoRAConfig, LoRAError, report, targets
from lora_jax.products.site import Site
from lora_jax.products.targeting import chosen, is_chosen, selects
from tests.cases import Encoder, TiedNet, flat

pytestmark = pytest.mark.usefixtures("quick_compile")

QUERIES = {"layer_0/query", "layer_1/query"}
VALUES = {"layer_0/value", "layer_1/value"}


def shapes(base=None, x=None, **fields):
    """The shapes of the adapted tree; nothing is computed."""
    model = LoRA(Encoder() if base is None else base, LoRAConfig(**{"rank": 2, **fields}))
    x = jnp.ones((1, 4)) if x is None else x
    return flat(jax.eval_shape(model.init, jax.random.key(0), x)["params"])


def adapted(**fields) -> set[str]:
    return {path.removesuffix("/lora_a") for path in shapes(**fields) if path.endswith("lora_a")}


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("query", QUERIES),
        (("query", "head"), QUERIES | {"head"}),
        ("layer_0/query", {"layer_0/query"}),
        ("/layer_0/query/", {"layer_0/query"}),
        ("*/query", QUERIES),
        ("layer_?/value", VALUES),
        ("layer_[1]/*", {"layer_1/query", "layer_1/value"}),
        ("re:.*/(query|value)", QUERIES | VALUES),
        (re.compile("layer_0/.*"), {"layer_0/query", "layer_0/value"}),
        (re.compile("LAYER_0/QUERY", re.IGNORECASE), {"layer_0/query"}),
        ("all-linear", QUERIES | VALUES | {"head"}),
        ("*", QUERIES | VALUES | {"head"}),
    ],
    # A set's order differs between processes.
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_patterns_select(patterns, expected):
    assert adapted(targets=patterns) == expected


def test_excludes_win():
    assert adapted(targets="all-linear", excludes=("head", "layer_0/*")) == {"layer_1/query", "layer_1/value"}


def test_all_linear_leaves_embeddings_out():
    paths = shapes(TiedNet(jnp.float32), jnp.ones((1, 2), jnp.int32), targets="all-linear")
    assert {path for path in paths if path.endswith("lora_a")} == {"blocks/up/lora_a", "blocks/down/lora_a"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"targets": ("query", "valeu")},
            ["'valeu'", "'query' matches 2", "layer_0/value, layer_1/value, layer_0/query"],
        ),
        ({"targets": "uery"}, ["'uery'", "layer_0/query, layer_1/query"]),
        ({"targets": "re:quer"}, ["'re:quer'"]),
        ({"targets": "Query"}, ["'Query'", "layer_0/query"]),
        ({"excludes": "haed"}, ["excludes", "'haed'", "head"]),
        ({"excludes": "*"}, ["leaves nothing"]),
        ({"rank_pattern": {"layer_9/query": 4}}, ["rank_pattern", "layer_0/query"]),
        ({"alpha_pattern": {"keys": 4}}, ["alpha_pattern", "'keys'"]),
        ({"targets": "query", "rank_pattern": {"value": 4}}, ["rank_pattern", "'value'"]),
    ],
    ids=str,
)
def test_an_idle_pattern_raises_with_counts_and_closest_names(fields, words):
    with pytest.raises(LoRAError) as caught:
        shapes(**fields)
    for word in words:
        assert word in str(caught.value)


PATTERNS = {"*": 1, "re:.*query": 8, "query": 3, "layer_0/*": 5, "layer_0/query": 7}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("path", "expected"), [("layer_0/query", 7), ("layer_1/query", 3), ("layer_0/value", 5), ("layer_1/value", 1)]
)
def test_the_most_specific_rank_wins_whatever_the_order(order, path, expected):
    tree = shapes(rank_pattern=dict(list(PATTERNS.items())[::order]))
    assert tree[f"{path}/lora_a"].shape == (4, expected)
    assert tree[f"{path}/lora_b"].shape == (expected, 4)


def test_alpha_pattern_sets_the_scale():
    model = LoRA(Encoder(), LoRAConfig(rank=2, alpha=8, alpha_pattern={"head": 3}, rank_pattern={"layer_0/query": 4}))
    params = flat(jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 4)))["params"])
    scales = {path: float(leaf) for path, leaf in params.items() if path.endswith("lora_scale")}
    assert scales == {
        "head/lora_scale": 1.5,
        "layer_0/query/lora_scale": 2.0,
        "layer_0/value/lora_scale": 4.0,
        "layer_1/query/lora_scale": 4.0,
        "layer_1/value/lora_scale": 4.0,
    }


def test_equally_specific_patterns_that_disagree_raise():
    with pytest.raises(LoRAError, match=r"layer_0/query is matched by equally specific.*name the path in full"):
        shapes(rank_pattern={"?ayer_0/query": 3, "layer_0/quer?": 4})


def test_equally_specific_patterns_that_agree_do_not():
    assert targets.most_specific([("laye*", 3), ("*ayer", 3)], ["layer"], 1) == 3


def test_the_report_counts_the_matches():
    config = LoRAConfig(rank=2, targets=("query", "layer_0/value"))
    params = jax.eval_shape(LoRA(Encoder(), config).init, jax.random.key(0), jnp.ones((1, 4)))["params"]
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), params)
    assert report(params, config=config).matches == {"query": 2, "layer_0/value": 1}


# Patterns against an independent reading of them, on any paths.

words = st.sampled_from(["a", "b", "query", "value", "layer_0", "layer_1"])
paths = st.lists(words, min_size=1, max_size=4).map("/".join)


@hypothesis.given(paths, paths)
def test_a_name_matches_the_last_parts_of_a_path(name, path):
    parts, wanted = path.split("/"), name.split("/")
    assert targets.matches(name, path) == (parts[-len(wanted) :] == wanted)


@hypothesis.given(paths, st.data())
def test_a_full_path_beats_a_name_beats_a_glob_whatever_the_order(path, data):
    pairs = [("*", 1), (path.rpartition("/")[2], 2), (path, 3)]
    shuffled = data.draw(st.permutations(pairs))
    if "/" in path:
        assert targets.most_specific(shuffled, [path], 0) == 3
        assert targets.most_specific([p for p in shuffled if p[1] != 3], [path], 0) == 2
    assert targets.most_specific([("*", 1)], [path], 0) == 1


@hypothesis.given(
    st.lists(paths, min_size=1, max_size=6, unique=True), st.lists(words, min_size=1, max_size=3, unique=True)
)
def test_selections_are_total_and_counted(layers, names):
    config = LoRAConfig(rank=1, targets=names)
    found = {path for path in layers if any(path.split("/")[-1] == name for name in names)}
    sites = {path: Site(f"{path}/kernel", (3, 4), "float32", "io") for path in layers}
    assert {path for path, site in sites.items() if is_chosen(config, site)} == found
    idle = [name for name in names if not any(path.split("/")[-1] == name for path in layers)]
    if idle:
        with pytest.raises(LoRAError, match=re.escape(repr(idle[0]))):
            chosen(config, sites)
    else:
        picked = chosen(config, sites).values()
        counts = {name: sum(selects(name, site) for site in picked) for name in names}
        assert counts == {name: sum(path.split("/")[-1] == name for path in layers) for name in names}
