"""S4 on a model of 16 dimensions: what is judged, what is trained, what comes out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import curves
from experiments.common.errors import UserError
from experiments.common.recording import RunFolder
from experiments.lm import answers, figures
from experiments.lm import claims as lm_claims
from experiments.lm import cost_figures as lm_costs
from experiments.lm import judge as lm_judge
from experiments.lm import outcomes as lm_outcomes
from experiments.lm import speaker as lm_speaker
from experiments.lm import study as lm_study
from experiments.lm import training as lm_training
from lora_jax import sweep
from tests.experiments import tiny_lm

SMALL = tiny_lm.STUDY

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> lm_speaker.Base:
    return tiny_lm.base(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="module")
def study(base, tmp_path_factory) -> lm_study.Study:
    folder = RunFolder(str(tmp_path_factory.mktemp("runs")), "study", {"settings": {}})
    return lm_study.Study(folder, SMALL, tiny_lm.material(base))


# What is judged.


def losses_one_by_one(base, encoded, chosen) -> np.ndarray:
    """Nats a token of each offered answer, sequence by sequence, through whole logits."""
    losses = np.zeros(chosen.shape)
    logits_of = jax.jit(lambda ids: base.model.apply({"params": base.params}, ids[None])[0])
    for asked, told in np.ndindex(*chosen.shape):
        question, answer = encoded.examples[asked], encoded.examples[chosen[asked, told]]
        ids = [*question.ids[: question.answer_at], *answer.ids[answer.answer_at :]]
        padded = np.pad(ids, (0, 64 - len(ids)))  # one shape; no token sees a later one
        logits = np.asarray(logits_of(jnp.asarray(padded)), np.float64)[question.answer_at - 1 : len(ids) - 1]
        said = np.take_along_axis(logits, np.asarray(ids)[question.answer_at :, None], axis=1)[:, 0]
        losses[asked, told] = (np.log(np.exp(logits).sum(axis=1)) - said).mean()
    return losses


def test_discrimination_is_that_of_every_answer_by_itself(base):
    encoded = tiny_lm.encoded(base)
    judge = lm_judge.Judge.of(base, encoded, 12, 48)
    losses = losses_one_by_one(base, encoded, lm_judge.candidates(encoded.examples[:12]))
    expected = np.mean([(line[0] == line.min()) / (line == line.min()).sum() for line in losses.round(5)])
    assert lm_judge.discrimination_of(base.model, base.params, judge) == pytest.approx(expected, abs=1e-6)


def test_a_judge_asks_the_first_held_out_questions(base):
    judge = lm_judge.Judge.of(base, tiny_lm.encoded(base), 12, 48)
    assert judge.questions == tuple(pair.question for pair in tiny_lm.pairs().pairs[:12])
    assert judge.offered["ids"].shape == (12, lm_judge.CANDIDATES, 48)
    voice = lm_speaker.Voice(base.params)
    alone = [lm_speaker.outputs(base, voice, [question], max_new_tokens=16)[0] for question in judge.questions[:3]]
    judge = dataclasses.replace(judge, max_new_tokens=16)
    assert judge.outputs([base.params], None)[0][:3] == alone and any(alone)


# What is trained.


def test_parts_of_the_questions_are_disjoint(study):
    parts = [
        {pair.question for pair in study.encoded("0.3M", "instructions", part).pairs}
        for part in ("train", "tuning", "held out")
    ]
    assert list(map(len, parts)) == [40, 10, 12] and len(set.union(*parts)) == 62


@pytest.mark.parametrize("regime, rank", [("LoRA", 4), ("full", 0)])
def test_a_group_is_its_members_by_themselves(study, regime, rank):
    members = [study._member(rank, 2.0, rate, seed) for rate, seed in ((1e-2, 0), (1e-3, 1), (1e-2, 2))]
    together = study._group(f"{regime} together", "0.3M", "instructions", regime, members, epochs=(1, 2))
    alone = study._group(f"{regime} alone", "0.3M", "instructions", regime, members[2:], epochs=(1, 2))
    np.testing.assert_allclose(together.losses["answers"][:, 2:], alone.losses["answers"], rtol=2e-5)
    assert together.losses["answers"][-1, 0] < together.losses["answers"][0, 0]
    assert together.traces == 1 and together.epochs == [0, 1, 2]


def test_measurements_are_those_of_the_trained_model_by_itself(study, base):
    members = [study._member(rank, 2.0, 1e-2, 0) for rank in (2, 5)]
    outcome = study._group("two ranks", "0.3M", "instructions", "LoRA", members, epochs=(2,))
    params = sweep.member_params(outcome.state, outcome.shared, 0)
    follow = study._follow("0.3M", "instructions")
    found = lm_training.losses_of(outcome.model, params, follow, 3)
    for name in follow:
        assert found[name] == pytest.approx(outcome.losses[name][-1, 0], rel=1e-5)
    before = lm_training.losses_of(base.model, base.params, follow, 3)
    assert before["answers"] == pytest.approx(outcome.losses["answers"][0, 1], rel=1e-5)
    assert outcome.parameters[1] * 2 == outcome.parameters[0] * 5


def test_an_interrupted_group_goes_on_with_its_verdicts(study, base, tmp_path, monkeypatch):
    from experiments.common import phases

    monkeypatch.setattr(phases, "SAVE_EVERY_S", 0)
    judge = lm_judge.Judge.of(base, study.encoded("0.3M", "instructions", "held out"), 10, 48)
    members = [study._member(4, 2.0, 1e-2, 0)]

    def group(folder, epochs):
        fresh = lm_study.Study(folder, SMALL, study.material)
        return fresh._group("phase", "0.3M", "instructions", "LoRA", members, epochs=epochs, judge=judge)

    whole = group(RunFolder(str(tmp_path), "whole", {"settings": {}}), (1, 2))
    cut = RunFolder(str(tmp_path), "cut", {"settings": {}})
    original, calls = lm_judge.Judge.outputs, []

    def stopping(self, *args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(lm_judge.Judge, "outputs", stopping)
    with pytest.raises(KeyboardInterrupt):
        group(cut, (1, 2))
    monkeypatch.setattr(lm_judge.Judge, "outputs", original)
    resumed = group(cut, (1, 2))
    np.testing.assert_array_equal(resumed.losses["answers"], whole.losses["answers"])
    for a, b in zip(resumed.judged, whole.judged, strict=True):
        assert a["outputs"].tolist() == b["outputs"].tolist() and a["discrimination"] == b["discrimination"]


def test_a_long_training_is_saved_between_the_epochs_that_are_judged(study, base):
    judge = lm_judge.Judge.of(base, study.encoded("0.3M", "instructions", "held out"), 10, 48)
    outcome = study._group(
        "long", "0.3M", "instructions", "LoRA", [study._member(4, 2.0, 1e-2, 0)], epochs=(1, 12), judge=judge
    )
    assert outcome.epochs == [0, 1, 5, 10, 12]
    assert [bool(one) for one in outcome.judged] == [True, False, False, True]
    # At least the base, and the adapters with their gradients and AdamW's two moments.
    assert outcome.peak_bytes > 4 * (
        sum(leaf.size for leaf in jax.tree.leaves(base.params)) + 3 * outcome.parameters[0]
    )


def test_a_batch_holds_about_so_many_examples(study):
    encoded = study.encoded("0.3M", "instructions", "train")
    rows = len(answers.rows(encoded, SMALL.length)["ids"])
    assert study._batch("0.3M", "instructions", 8) == round(8 * rows / 40) < 8
    assert study._batch("0.3M", "instructions", 1) == 1


# What comes out.


def test_a_diverged_rate_is_never_taken():
    line = lm_outcomes.tuning_line("0.3M", "instructions", "LoRA", 8, (1e-3, 1e-2, 1e-1), [3.0, 2.0, float("nan")])
    assert line["best"] == 1e-2 and not line["at_edge"] and line["losses"]["0.1"] is None
    with pytest.raises(UserError, match="diverged at every learning rate"):
        lm_outcomes.tuning_line("0.3M", "instructions", "LoRA", 8, (1.0, 2.0), [float("nan"), float("inf")])


def test_how_long_it_took_to_a_loss():
    full = {"epochs": [0, 1, 2], "steps_per_epoch": 10, "losses": {"answers": [[4.0, 4.0], [2.9, 3.1], [2.0, 2.0]]}}
    assert curves.between(full["losses"]["answers"], (0.5, 0.9)) == pytest.approx([3.0, 2.2])
    assert [curves.epoch_at(full, loss) for loss in (4.0, 3.0, 2.9, 1.9)] == [0, 1, 2, None]
    assert lm_costs._time(full | {"seconds_per_step": 3.0}, 2) == "20 (1.0)"


def test_outputs_are_escaped():
    assert figures._one_line("a *b*\n\n <c>") == "a \\*b\\* / \\<c\\>"


# Verdicts, on a summary that is made up.


def gap(size: str, rank: int, parameters: int, value: float) -> dict:
    lora, full = [1 + value, 1 + value + 0.001], [1.0, 1.0]
    from experiments.common.statistics import estimate

    return {
        "size": size,
        "rank": rank,
        "base_parameters": parameters,
        "lora": lora,
        "full": full,
        "gap": estimate(np.subtract(lora, full).tolist()),
    }


@pytest.mark.parametrize(
    "by_size, by_rank, verdict",
    [
        ((0.2, 0.02), (0.3, 0.01), "holds"),  # over-parameterisation: the gap closes with both
        ((0.2, 0.02), (0.02, 0.02), "holds in part"),
        ((0.2, 0.19), (0.2, 0.01), "does not hold"),
        ((-0.1, -0.1), (-0.1, -0.1), "does not hold"),  # no gap at all
    ],
)
def test_the_gap_must_close_with_size_and_rank(by_size, by_rank, verdict):
    gaps = [
        gap("0.3M", 8, 200_000, by_size[0]),
        gap("3M", 1, 3_000_000, by_rank[0]),
        gap("3M", 8, 3_000_000, by_size[1]),
        gap("3M", 64, 3_000_000, by_rank[1]),
    ]
    summary = {"settings": {"size": "3M", "rank": 8}, "gaps": gaps}
    assert lm_claims._size(summary, "command").verdict == verdict
