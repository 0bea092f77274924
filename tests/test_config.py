"""Does a config say what it means, refuse what it cannot mean, and come back from JSON as itself?"""

import json
import math
import re

import pytest

from lora_jax import LoRAConfig, LoRAError, initializers
from lora_jax.config import scale_of


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [("alpha/r", 12 / 9), ("alpha/sqrt(r)", 4.0), ("constant", 12.0)],
)
def test_scaling_rules(scaling, expected):
    assert scale_of(12, 9, scaling) == pytest.approx(expected)
    assert LoRAConfig(rank=1, scaling=scaling).scale(rank=9, alpha=12) == pytest.approx(expected)


@pytest.mark.parametrize("scaling", ["alpha/r", "constant"])
def test_default_alpha_gives_scale_one(scaling):
    config = LoRAConfig(rank=8, scaling=scaling)
    assert config.scale(rank=8, alpha=config.alpha) == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 0},
        {"rank": -3},
        {"rank": 2.0},
        {"rank": True},
        {"rank": "two"},
        {"alpha": 0},
        {"alpha": -1.0},
        {"alpha": math.nan},
        {"alpha": math.inf},
        {"alpha": "16"},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"dropout": math.nan},
        {"dropout": "half"},
        {"scaling": "alpha"},
        {"targets": ()},
        {"targets": ""},
        {"targets": None},
        {"targets": (3,)},
        {"targets": "re:("},
        {"excludes": 7},
        {"rank_pattern": {"query": 0}},
        {"rank_pattern": {"query": "four"}},
        {"rank_pattern": "query"},
        {"rank_pattern": 4},
        {"alpha_pattern": {"query": -1}},
        {"alpha_pattern": {"re:[": 1}},
        {"roles": {"w": "ss"}},
        {"roles": {"w": "ia"}},
        {"roles": {"w": 3}},
        {"roles": "sio"},
        {"init_a": "kaiming"},
        {"init_a": []},
        {"init_a": initializers.Initializer()},
    ],
    ids=lambda wrong: "-".join(f"{name}={value!r}" for name, value in wrong.items())[:40],
)
def test_nonsense_is_refused_in_one_sentence_that_names_the_field(wrong):
    with pytest.raises(LoRAError) as caught:
        LoRAConfig(**{"rank": 4, **wrong})
    message = str(caught.value)
    assert next(iter(wrong)) in message
    assert message.endswith(".")
    assert "\n" not in message


def test_an_initialiser_refuses_its_own_nonsense():
    with pytest.raises(LoRAError, match="stddev"):
        initializers.Normal(stddev=0.0)


CONFIGS = [
    LoRAConfig(rank=2),
    LoRAConfig(rank=2, alpha=5, targets="head", excludes="body", scaling="alpha/sqrt(r)", dropout=0.1),
    LoRAConfig(
        rank=2, targets=re.compile("Query", re.IGNORECASE), rank_pattern={"b": 1, "a": 3}, alpha_pattern={"c": 2}
    ),
    LoRAConfig(rank=2, init_a=initializers.Normal(stddev=0.02)),
    LoRAConfig(rank=2, init_a="orthogonal"),
    LoRAConfig(rank=2, roles={"kv": "soio", "up": "sio"}),
]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_round_trip_through_json(config):
    again = LoRAConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)


def test_an_unknown_field_is_named():
    with pytest.raises(LoRAError, match="no field rang"):
        LoRAConfig.from_dict({**LoRAConfig(rank=2).to_dict(), "rang": 3})


def test_order_of_the_patterns_is_irrelevant():
    pairs = {"query": 4, "value": 8}
    assert LoRAConfig(rank=2, rank_pattern=pairs) == LoRAConfig(rank=2, rank_pattern=dict(reversed(pairs.items())))


def test_a_config_is_frozen():
    with pytest.raises(AttributeError):
        LoRAConfig(rank=2).rank = 3


def test_without_alpha_every_layer_has_scale_one_at_its_own_rank():
    config = LoRAConfig(rank=8)
    assert [config.scale(rank=rank, alpha=config.alpha) for rank in (1, 3, 8)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "expression", ["(a+)+$", "(a*)*b", "(.*)+x", "((a|b)*)*c", "(?:a+|b)*c", "(a*b*)*c", "x(y(z+)+)w", "(.+?)*x"]
)
def test_a_regex_that_would_never_end_is_refused(expression):
    with pytest.raises(LoRAError, match="which repeats a part that itself repeats"):
        LoRAConfig(rank=1, targets=f"re:{expression}")


@pytest.mark.parametrize(
    "expression",
    [".*", "(.*/)?query", r"(\w+/)*value", "(a|b)+", "(ab?)+", r".*layers/(\d+)/.*_proj", "[a-z]+_[0-9]+"],
)
def test_a_regex_with_something_between_its_repeats_is_taken(expression):
    assert LoRAConfig(rank=1, targets=f"re:{expression}").targets == (f"re:{expression}",)
