"""The study's rows: rates that are found, bases and seeds as units, what is kept of each; on a model of 16 dimensions."""

import dataclasses
import gzip
import json

import jax
import numpy as np
import pytest

from experiments.common.errors import UserError
from experiments.common.items import unpacked
from experiments.data import questions
from experiments.data.questions import Pair
from experiments.following import arms, course, lessons, material, open_questions, parts, program, runs, study
from experiments.following.earlier import Earlier
from experiments.following.material import Asked, Checkable
from experiments.following.settings import PRESETS, Settings
from experiments.lm import speaker
from experiments.lm.speaker import Base
from tests.docs import blocks
from tests.experiments import tiny_lm
from tests.experiments.test_following import PAIRS

pytestmark = pytest.mark.usefixtures("quick_compile")
LENGTH = 48
SETTINGS = Settings(
    other_sizes=(), bases=2, seeds=2, steps=8, ranks=(1, 4), tuning_seeds=1, widenings=0, lora_rates=(1e-3, 1e-2, 3e-2), full_rates=(1e-2,),
    epochs=(1, 2), open_steps=4, prompts=2,
)  # fmt: skip
RECIPE = program.Recipe((4, 8), 7, (4, 8))


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> list[Base]:
    first = tiny_lm.base(tmp_path_factory.mktemp("model"))
    return [first, dataclasses.replace(first, params=jax.tree.map(lambda leaf: leaf[..., ::-1], first.params))]


@pytest.fixture(scope="module")
def items(bases) -> Checkable:
    found = {
        name: parts.packed(bases[0].tokenizer, tiny_lm.pairs(80).pairs[of], LENGTH)
        for name, of in (("train", slice(60)), ("rest", slice(60, 80)))
    }
    return Checkable(
        found["train"], found["rest"], {"words": found["rest"]}, {"words": ("color",) * 20}, {"color": 0.2}
    )


@pytest.fixture
def begun(folder, bases, items) -> study.Study:
    made = study.Material({"1M": bases}, items.tuning, ("What about it?", "What?"), ("What about the car 1?",))
    return study.Study(folder, SETTINGS, made)


def test_rows_are_of_all_bases_and_seeds_at_the_rate_that_tuning_items_prefer(begun, items):
    lesson, found = lessons.of_items(items), [arms.lora(1), arms.lora(4), arms.FULL]
    begun.tune("1M", lesson, found, 8)
    lines = {line["arm"]: line for line in begun.tuned.values()}
    assert lines["full"]["by"] == "given" and set(lines["LoRA r=4"]["runs"]) == {"0.001", "0.01", "0.03"}
    rows = begun.taught("1M", lesson, found, RECIPE, seeds=2, speaks=True)
    assert [(row["arm"], row["steps"]) for row in rows] == [(arm.name, end) for arm in found for end in (4, 8)]
    for row in rows:
        assert row["units"] == [[0, 0], [0, 1], [1, 0], [1, 1]]
        assert row["rate"] == lines[row["arm"]]["best"]
        right = unpacked(row["right"]["words"], 20)
        assert right.shape == (4, 20) and len(row["nats"]["words"]) == 4
        assert (
            np.shape(row["curves"]["right"])
            == np.shape(row["curves"]["general"])
            == (4, 1 + RECIPE.ends.index(row["steps"]) + 1)
        )
        # Tuning and judged items are the same here: two ways to the same numbers.
        np.testing.assert_allclose([curve[-1] for curve in row["curves"]["right"]], right.mean(axis=1), atol=1e-4)
        np.testing.assert_allclose([curve[-1] for curve in row["curves"]["nats"]], row["nats"]["words"], atol=2e-4)
    assert all(("said" in row) == (row["steps"] == 8) for row in rows)
    assert set(begun.outputs) == {f"1M, checkable: {arm.name}" for arm in found}
    of_base = begun.untaught("1M", lesson)
    np.testing.assert_allclose(
        of_base["nats"]["words"], [rows[0]["curves"]["nats"][unit][0] for unit in (0, 2)], atol=2e-4
    )
    assert json.loads(json.dumps([*rows, of_base]))


def test_bases_that_train_at_once_are_those_that_train_one_after_the_other(begun, items, monkeypatch):
    lesson, found, recipe = lessons.of_items(items), [arms.original(2, 1e-2)], program.Recipe((8,), 7)
    (alone,) = begun.taught("1M", lesson, found, recipe, seeds=2, name="alone")
    monkeypatch.setattr(study, "_devices", lambda: 4)
    (together,) = begun.taught("1M", lesson, found, recipe, seeds=2, name="together", speaks=True)
    assert together["units"] == alone["units"] == [[0, 0], [0, 1], [1, 0], [1, 1]] and len(together["said"]) == 2
    assert len(set(together["nats"]["words"])) == 4
    for what in ("nats", "train_loss", "curves"):
        for one, other in zip(jax.tree.leaves(together[what]), jax.tree.leaves(alone[what]), strict=True):
            assert one == pytest.approx(other, abs=2e-4)
    assert list(begun.folder.records("together 1M the study's LoRA r=2, bases 0 and 1"))
    monkeypatch.setattr(study.said, "outputs", None)  # a run that goes on asks no model again
    again = study.Study(begun.folder, begun.settings, begun.material)
    assert again.taught("1M", lesson, found, recipe, seeds=2, name="together", speaks=True) == [together]
    assert again.outputs == {name: begun.outputs[name] for name in again.outputs} != {}


@pytest.mark.parametrize(
    ("count", "phases"), [(3, ["bases 0 and 1", "base 2"]), (2, ["bases 0 and 1"]), (1, ["base 0"])]
)
def test_a_last_base_may_be_alone(count, phases, begun, items, monkeypatch):
    asked = []

    def trained(phase, size, bases, lesson, kind, recipe, members, *, judged):
        asked.append((phase, list(bases), len(members)))
        return program.Outcome((8,), {}, {}, np.zeros((1, len(members))), 0.0, [1] * len(members), list(bases))

    monkeypatch.setattr(study, "_devices", lambda: 2)
    monkeypatch.setattr(begun, "_train", trained)
    outs = begun._of_bases(
        "phase", "1M", range(count), lessons.of_items(items), arms.ON_ALL, RECIPE, [arms.lora(1).member(1e-2, 0)]
    )
    assert [phase for phase, *_ in asked] == [f"phase, {told}" for told in phases]
    assert all(len(bases) == members for _, bases, members in asked)
    assert [out.trees for out in outs] == [[base] for base in range(count)]


def test_a_base_that_was_trained_alone_stays_alone_beside_later_ones(begun, bases, items, monkeypatch):
    lesson, found, recipe = lessons.of_items(items), [arms.original(2, 1e-2)], program.Recipe((8,), 7)
    monkeypatch.setattr(study, "_devices", lambda: 2)
    begun.material.bases["1M"] = bases[:1]
    (first,) = begun.taught("1M", lesson, found, recipe, name="alone")
    begun.material.bases["1M"] = [*bases, bases[0]]
    (row,) = begun.taught("1M", lesson, found, recipe, name="alone")
    kept = [path.name for path in (begun.folder.path / "phases").iterdir()]
    assert sorted(kept) == [f"alone_1M_the_study_s_LoRA_r_2__{told}" for told in ("base_0", "bases_1_and_2")]
    assert row["nats"]["words"][:1] == first["nats"]["words"]
    assert row["nats"]["words"][2] == pytest.approx(row["nats"]["words"][0], abs=2e-4)


def test_only_bases_that_an_earlier_run_lacks_are_taught(folder, begun, items, monkeypatch):
    """And one of these that is compared with its rows must be the very one."""
    lesson, found, recipe = lessons.of_items(items), [arms.original(2, 1e-2)], program.Recipe((4,), 7)
    asked = []

    def trained(phase, size, wanted, *_):
        asked.append(list(wanted))
        raise StopIteration

    def teach(**of) -> study.Study:
        after = study.Study(folder, SETTINGS, begun.material, Earlier(bases=1, **of))
        after.is_compared = True
        monkeypatch.setattr(after, "_of_bases", trained)
        with pytest.raises(StopIteration):
            after.taught("1M", lesson, found, recipe)
        return after

    told = {"name": "checkable", "size": "1M", "arm": found[0].name, "steps": 4, "ends": [4], "rate": 1e-2, "batch": 7}
    first = teach(rows=({**told, "units": [[0, 0]]},))
    assert asked == [[1]] and first.lessons == {}, "of the rows that are there nobody knows the lesson"
    for noted, said in ({}, "were not noted"), ({"0": "x"}, "has other weights"):
        with pytest.raises(UserError, match=said):
            teach(weights={"1M": noted})
    begun.base("1M", 0)
    second = teach(weights=begun.weights)
    assert asked == [[1], [0, 1]] and second.lessons == {"checkable": lesson.digest}
    with pytest.raises(UserError, match=r"was measured after \[8\] updates, and would be after \[4\] now"):
        teach(rows=({**told, "units": [[0, 0]], "steps": 8},))


def test_open_questions_are_kept_item_by_item(begun, bases):
    few = parts.packed(bases[0].tokenizer, PAIRS[:12], LENGTH)
    asked = Asked(few, few, open_questions.of(bases[0].tokenizer, PAIRS, LENGTH), {})
    lesson = lessons.of_questions(asked, "medical", {"open": asked})
    (row,) = begun.taught("1M", lesson, [arms.original(2)], program.Recipe((4,), 7))
    found = row["asked"]
    assert set(found) == {"held out", "open"} and found["held out"] == found["open"]
    with_input = sum(bool(pair.input) for pair in PAIRS)
    for what, count in (
        ("question", len(PAIRS)),
        ("instruction", with_input),
        ("discrimination", len(PAIRS)),
        ("nats", len(PAIRS)),
    ):
        assert np.shape(found["open"][what]) == (2, count)


def test_medicine_has_questions_enough():
    path = blocks.ROOT.parent / "shared" / "data" / "medquad.jsonl.gz"
    if not path.exists():
        pytest.skip("no MedQuAD here")
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    pairs = questions.Pairs(tuple(Pair(row["question"].strip(), row["answer"].strip()) for row in rows), {}, path.name)
    few = dataclasses.replace(PRESETS["full"], open_held_out=20, tuning=10, open_pairs=3000)
    found = material.of_questions(speaker.load(runs.SHIPPED).tokenizer, pairs, few, are_pages=True)
    needed = PRESETS["full"].open_held_out + PRESETS["full"].tuning
    assert found.train.count == 3000 > 2 * needed and found.left_out["of a template"] > 1000


def test_scores_prefer_what_the_lesson_says(items):
    lesson = lessons.of_items(items)
    out = program.Outcome(
        (8,),
        {"tuning": {"nats": np.array([[1.0, 2.0, np.nan]]), "right": np.array([[0.2, 0.5, 0.9]])}},
        {},
        None,
        0.0,
        [],
        [],
    )
    assert lesson.scores(out) == [0.2, 0.5, None]
    assert dataclasses.replace(lesson, by="nats").scores(out) == [-1.0, -2.0, None]


def test_arms_of_low_and_of_high_rank_are_not_padded_to_each_other():
    groups = study.grouped([arms.lora(1), arms.FULL, arms.lora(16), arms.lora(64), arms.SQUARE_TUNED])
    assert [[arm.name for arm in group] for group in groups] == [
        ["LoRA r=1", "LoRA r=16"],
        ["full"],
        ["LoRA r=64"],
        ["LoRA r=8 on q, o"],
    ]


def test_the_study_s_batches_are_measured_at_equal_epochs_and_at_equal_updates(items):
    class Planned:
        """What would be taught, and how long: nothing is trained here."""

        settings = SETTINGS

        def taught(self, size, lesson, found, recipe, *, name, bases=None, **_):
            return [
                {"name": name, "rank": arm.rank, "steps": end, "bases": bases} for arm in found for end in recipe.asked
            ]

    lessons_ = course.Lessons(lessons.of_items(items), None, {})
    parts_ = (course._the_studys, course._smaller_batch, course._longer)
    few, more, long = (part(Planned(), "1M", lessons_) for part in parts_)
    epoch = len(items.train.owners) // 7
    assert [row["steps"] for row in few if row["name"] == "epochs" and row["rank"] == 8] == [epoch, 2 * epoch]
    small = [row["steps"] for row in more]
    assert small == [epoch, 2 * epoch, 7 * epoch] and small[-1] * 2 == 2 * epoch * 7  # as many rows
    assert [(row["steps"], row["bases"]) for row in long] == [(epoch, 2), (2 * epoch, 2)]  # as many as there are epochs


def test_answers_of_a_template_are_left_out():
    many = [
        Pair(f"What is {i}?", "These resources address the diagnosis or management of it.")
        for i in range(material.TEMPLATE)
    ]
    others = [Pair("What is it?", "A thing of its own that is told at length."), *many[:1]]
    assert material.without_templates([*many, others[0]]) == [others[0]]
    assert material.without_templates(others) == others
