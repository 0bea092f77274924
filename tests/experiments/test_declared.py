"""Is the margin that a claim's test uses the one that was declared?"""

import pytest

from experiments.best_rate import claims as best_rate
from experiments.digit9 import claims as digit9
from experiments.digit9 import equal_gain
from experiments.ledger import declared
from experiments.sst2 import claims as sst2
from experiments.sst2 import dynamics, front

SHARES = ("S0.4", *(f"S0.5.{i}" for i in range(1, 20)), "S0.6", "S0.9", "S0.10", "S1.6", "S1.7", "S1.10")
PAIRS = [
    (digit9.RISE, ("S0.3", "S1.5")),
    (digit9.SLIGHT, ("S1.9",)),
    (equal_gain.SHARE, SHARES),
    (sst2.SAME, ("S2.4", "S2.4 MiniLM")),
    (front.NEAR, ("S2.6", "S2.6 MiniLM")),
    (front.LOST, ("S2.9", "S2.9 MiniLM")),
    (dynamics.PLATEAU, ("S2.7", "S2.7 MiniLM")),
]


@pytest.mark.parametrize(("used", "ids"), PAIRS)
def test_the_margin_in_use_is_the_declared_one(used, ids):
    assert [declared.of(id_).margin for id_ in ids] == [used] * len(ids)


@pytest.mark.parametrize(
    ("id_", "said"),
    [
        ("S2.6", f"more than {front.STEP:g} points"),
        ("S2.5", f"above {sst2.FALL:g} points"),
        ("S2.5", f"above {sst2.BEND:g}"),
        ("S0.5.1", f"{equal_gain.FLOOR:g} errors"),
    ],
)
def test_what_a_declaration_says_in_words_is_what_is_used(id_, said):
    assert said in declared.of(id_).asks


@pytest.mark.parametrize("problem", ["mnist", "linear", "sst2"])
def test_every_best_rate_has_its_declaration(problem):
    assert all(declared.of(f"{id_}.{problem}").margin for id_ in (*best_rate.SAID, "L.4"))
