"""Are configs of any values refused, or kept as they are through JSON?"""

import math

import hypothesis.strategies as st

from lora_jax import LoRAConfig
from lora_jax.files import parse
from tests.fuzz.judge import fuzzed, identical, judged
from tests.fuzz.strategies import ANYTHING, JUNK, NAMES, places, replaced, text_of, without

FIELDS = list(LoRAConfig.__dataclass_fields__)
GOOD = {
    "rank": 4, "alpha": 8.0, "targets": ["query", "re:.*/value"], "excludes": ["layer_0"], "scaling": "alpha/sqrt(r)", "dropout": 0.1,
    "rank_pattern": {"query": 2}, "alpha_pattern": {"value": 3}, "init_a": {"name": "normal", "stddev": 0.5}, "init": "lora", "dora": True,
    "roles": {"kv": "soio"},
}  # fmt: skip


def through_json(given):
    """A config, made and written and read: equal, hashable, and of plain values."""
    config = LoRAConfig(**given)
    hash(config), repr(config)
    back = LoRAConfig.from_dict(parse(text_of(config.to_dict()), "config"))
    assert back == config and math.isfinite(config.scale(rank=config.rank, alpha=config.alpha))
    return back, config


def equal(found, expected):
    return found[0] == found[1] and identical(found[0].to_dict(), found[1].to_dict())


WORDS = ["alpha/r", "alpha/sqrt(r)", "constant", "pissa", "orthogonal", "normal", True, False]
NUMBERS = [1, 4, 2**31 - 1, 0.5, 0.0, 1e-30, 1e30]
KINDS = (
    st.sampled_from(NUMBERS)
    | st.sampled_from(WORDS)
    | NAMES
    | st.lists(NAMES)
    | st.dictionaries(NAMES, st.integers(1, 9))
)


@fuzzed(
    0.08,
    given=st.dictionaries(st.sampled_from(FIELDS), KINDS | ANYTHING, max_size=3),
    rank=st.sampled_from([1, 2, None]),
    more=NAMES,
)
def test_fields_of_any_value(given, rank, more):
    given = {**given, more: 1} if rank is None else {"rank": rank, **given}
    judged("config", lambda: through_json(given), same=equal, of=given)


@fuzzed(0.04, data=st.data())
def test_a_written_config_of_which_one_value_is_another(data):
    path = data.draw(st.sampled_from(places(GOOD)))
    changed = data.draw(st.just(without(GOOD, path)) | st.builds(lambda new: replaced(GOOD, path, new), JUNK))
    judged("config", lambda: through_dict(changed), same=equal, of=changed)


def through_dict(changed):
    config = LoRAConfig.from_dict(changed)
    return LoRAConfig.from_dict(parse(text_of(config.to_dict()), "config")), config


@fuzzed(0.01, value=ANYTHING)
def test_what_is_no_dict_at_all(value):
    judged("config", lambda: through_dict(value), same=equal, of=value)
