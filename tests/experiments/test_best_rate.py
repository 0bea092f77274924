"""Is the best rate found where it is, are windows widened until it is inside, and does a member learn what it would alone?"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import lora_jax
from experiments.bert import base as bert_base
from experiments.best_rate import claims, figures, problems, study, vertex
from experiments.best_rate.settings import HORIZONS, PRESETS, RULES, STEP, Settings, rate
from experiments.common.errors import UserError
from experiments.common.pretraining import order_key
from experiments.common.recording import RunFolder
from experiments.sst2.inputs import Inputs
from tests.experiments import tiny_bert
from tests.experiments.entries import FOLDER, execute

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.mark.parametrize("at", [3.0, 4.3, 5.5])
def test_the_vertex_of_a_bowl_in_the_logarithm_of_the_rate(at):
    powers = range(10)
    found, is_edge = vertex.best(powers, [(power - at) ** 2 + 0.5 for power in powers])
    assert found == pytest.approx(at) and not is_edge


def test_a_loss_that_jumps_beyond_the_best_rate_does_not_pull_the_vertex_back():
    losses = [9.0, 4.0, 1.0, 0.0, 1.0, 400.0]
    assert vertex.best(range(6), losses)[0] == pytest.approx(3.0)
    assert vertex.best(range(6), [*losses[:4], np.inf, np.inf])[0] == 3.0  # nothing finite beyond: where it is lowest


@pytest.mark.parametrize("losses", [[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [np.inf, 1.0, 2.0], [1.0]])
def test_a_best_rate_without_neighbours_is_at_the_edge(losses):
    assert vertex.best(range(len(losses)), losses)[1]


def bowl(powers, *ats) -> study.Losses:
    """Of one cell, each seed's best at its own power."""
    return {
        ("alpha = c r", 1): {p: {"tuning": [1 + (p - at) ** 2 for at in ats], "test": [0.0] * len(ats)} for p in powers}
    }


@pytest.mark.parametrize(
    ("ats", "powers", "more"),
    [
        ((2, 2), range(4, 8), [2, 3]),
        ((9, 9), range(4, 8), [8, 9]),
        ((5.6, 5.6), range(2, 10), []),
        ((5.6, 5.6, 5.6, 1), range(2, 10), [0, 1]),  # one seed's at an edge, where the mean's is not
        ((5.6, 5.6, 11, 1), range(2, 10), [0, 1, 10, 11]),
    ],
)
def test_windows_are_widened_towards_the_best_rate_of_the_mean_and_of_each_seed(ats, powers, more):
    assert study._beyond(bowl(powers, *ats), 2) == ({("alpha = c r", 1): more} if more else {})


def test_the_search_goes_on_until_the_best_is_inside(monkeypatch):
    def train(folder, settings, problem, wanted, phase, horizon):
        return {
            cell: {p: {"tuning": [1 + (p - 20) ** 2], "test": [0.5]} for p in powers} for cell, powers in wanted.items()
        }

    monkeypatch.setattr(study, "_train", train)
    settings = Settings(ranks=(1, 2), seeds=1, window=12, rounds=5)
    found = study._horizon(None, settings, None, "short")
    assert set(found) == {(rule, rank) for rule in RULES for rank in (1, 2)} | {("full", 0)}
    for by_power in found.values():
        assert vertex.best(*study._curve(by_power)) == (pytest.approx(20.0), False)


def test_a_member_learns_what_it_would_alone(tmp_path):
    settings = dataclasses.replace(PRESETS["linear"]["smoke"], ranks=(1, 4), seeds=2, steps=(6, 6))
    problem = problems.linear(settings)
    each = [(("alpha = c r", 1), 6), (("alpha fixed", 4), 9), (("alpha / sqrt(r)", 4), 3)]
    program = study._Program(None, settings, problem, each, "short")
    for seed in (0, 1):
        base = jax.tree.map(lambda leaf, s=seed: leaf[s], problem.bases)
        state, shared = program._start(base, seed)
        sets = problem.sets(seed)
        state, _ = program.trainer.run(state, shared, sets["train"], program._order(seed, 20_000))
        scores = np.asarray(program._score(state, shared, sets["test"]))
        for (cell, power), score in zip(each, scores, strict=True):
            assert score == pytest.approx(alone(problem, settings, cell, rate(power), seed), rel=2e-4)
    assert len(program.trainer.traces) == 1


def alone(problem, settings, cell, learning_rate, seed) -> float:
    """By an optax loop on y = x (s a b), without the library but for the first factors."""
    scale = (
        settings.scale * {"alpha = c r": 1.0, "alpha fixed": 1 / cell[1], "alpha / sqrt(r)": cell[1] ** -0.5}[cell[0]]
    )
    config = lora_jax.LoRAConfig(rank=cell[1], targets="*", scaling="constant", alpha=scale)
    fresh = lora_jax.adapt(
        jax.random.key(seed),
        {"kernel": problem.bases["kernel"][seed]},
        lora_jax.LoRA(problem.model, config),
        problem.example,
    )
    factors = {"a": fresh["lora_a"], "b": fresh["lora_b"]}
    examples, order = (
        problem.sets(seed)["train"],
        np.asarray(jax.random.randint(order_key(jnp.uint32(seed)), (6, 64), 0, 20_000, jnp.int32)),
    )
    optimizer = optax.adam(lambda step: learning_rate * (1 - step / 6))
    state = optimizer.init(factors)

    def loss(factors, x, y):
        return ((x @ (scale * factors["a"] @ factors["b"]) - y) ** 2).sum(-1).mean()

    for rows in order:
        updates, state = optimizer.update(jax.grad(loss)(factors, examples["x"][rows], examples["y"][rows]), state)
        factors = optax.apply_updates(factors, updates)
    return float(loss(factors, *problem.sets(seed)["test"].values()))


def test_the_linear_loss_is_what_the_rank_has_not_reached():
    """Checked with the best matrix of the rank, by numpy's decomposition."""
    problem = problems.linear(dataclasses.replace(PRESETS["linear"]["smoke"], seeds=1))
    whole = problem.sets(0)["test"]
    delta = np.asarray(whole["x"].T @ whole["y"]) / 64
    left, values, right = np.linalg.svd(delta)
    np.testing.assert_allclose(values, 0.9 ** np.arange(64), rtol=1e-4)
    for rank in (1, 4):
        best = jnp.asarray((left[:, :rank] * values[:rank]) @ right[:rank])
        loss, _ = problem.loss(problem.model)({"kernel": best}, whole, None)
        assert loss == pytest.approx(problem.least(rank), rel=1e-4)
    train = problem.sets(0)["train"]
    np.testing.assert_allclose(np.linalg.lstsq(np.asarray(train["x"]), np.asarray(train["y"]))[0], delta, atol=1e-4)


def test_a_bert_adapts_its_encoder_and_beats_its_classifier_alone(tmp_path):
    """The base is a classifier of every seed on a frozen encoder; adapters and full fine-tuning start from its loss."""
    inputs = Inputs(tiny_bert.data(), bert_base.load(str(tiny_bert.write(tmp_path / "bert"))))
    settings = Settings("sst2", ranks=(1, 4), window=4, seeds=2, steps=(2, 40), rounds=0, centre=9, full_centre=9)
    folder = RunFolder(str(tmp_path / "runs"), "rates", {"settings": {}})
    problem = problems.sst2(folder, settings, inputs)
    heads = problem.bases["classifier"]["kernel"]
    assert not np.allclose(heads[0], heads[1])
    found = study.run(folder, settings, inputs)
    for seed in range(settings.seeds):
        base, test = jax.tree.map(lambda leaf, s=seed: leaf[s], problem.bases), problem.sets(seed)["test"]
        start = float(problem.score(problem.model)(base, test)["loss"].mean())
        for cell in (row for row in found["cells"] if row["horizon"] == "long"):
            losses = np.asarray(cell["by_seed"]["test_losses"][seed])
            assert losses.min() < start - 0.005, cell["rule"]  # a random BERT of 8 dimensions learns slowly
    assert {row["rule"] for row in found["cells"]} == {*RULES, "full"} and found["base_unchanged"]


BOWL = [4.0, 1.0, 0.0, 1.0, 4.0]


def made_up(
    e: float,
    ratio: float = 10.0,
    *,
    at_edge: bool = False,
    long: float | None = None,
    lowest: float | None = None,
    seed_at_edge: bool = False,
    n: int = 8,
):
    """A summary whose exponents are about e, or `long` after long training; or `lowest`, read by the lowest losses."""
    rng = np.random.default_rng(0)
    means = {"short": e, "long": e if long is None else long}
    rows = [
        {"horizon": horizon, "rule": rule,
         "by_seed": {"exponent": (means[horizon] + 0.02 * rng.normal(size=n)).tolist(),
                     "ratio_to_full": {"8": (ratio * 1.05 ** rng.normal(size=n)).tolist()}}}
        for horizon in HORIZONS for rule in RULES
    ]  # fmt: skip
    losses = [sorted(BOWL) if seed_at_edge else BOWL, *[BOWL] * (n - 1)]
    return {
        "settings": {"scale": 2.0},
        "exponents": rows,
        "cells": [
            {
                "horizon": h,
                "rule": r,
                "rank": rank,
                "rate_at_edge": at_edge,
                "rate_is_flat": False,
                "rates": [2.0**k * (rank or 1) ** (means[h] if lowest is None else lowest) for k in range(len(BOWL))],
                "by_seed": {"tuning_losses": losses},
            }
            for h in HORIZONS
            for r, rank in (*((rule, rank) for rule in RULES for rank in (1, 8)), ("full", None))
        ],
    }


@pytest.mark.parametrize(
    ("summary", "verdicts"),
    [
        (made_up(0.0), ["holds"] * 4),
        (made_up(-0.6, ratio=40.0), ["does not hold"] * 4),
        (made_up(-0.15), ["not settled"] * 3 + ["holds"]),
        (made_up(-0.15, long=-0.6), ["does not hold"] * 3 + ["holds"]),  # one length is not settled, the other no
        (made_up(-0.6, long=0.0), ["holds in part"] * 3 + ["holds"]),
        (made_up(0.0, at_edge=True), ["not settled"] * 4),
        (made_up(-0.6, seed_at_edge=True), ["not settled"] * 4),
        (made_up(0.0, lowest=-0.6), ["not settled"] * 3 + ["holds"]),
        (made_up(-0.6, lowest=0.0), ["not settled"] * 3 + ["holds"]),
    ],
)
def test_verdicts(summary, verdicts):
    assert [claim.verdict for claim in claims.of("mnist")(summary, "command")] == verdicts


def test_the_edge_of_another_rank_does_not_unsettle_the_tenfold_rate():
    summary = made_up(0.0)
    other = {"rank": 2, "by_seed": {"tuning_losses": [sorted(BOWL)] * 8}}
    summary["cells"] += [cell | other for cell in summary["cells"] if cell["rank"] == 1]
    found = claims.of("mnist")(summary, "command")
    assert [claim.verdict for claim in found] == ["not settled"] * 3 + ["holds"]
    assert "8 of 32 best rates of single seeds lie at the edge" in found[0].ours


def test_a_tenfold_rate_is_told_as_a_ratio_with_what_it_is_under_other_scales():
    summary = made_up(0.0, ratio=8.0)
    for row in summary["exponents"]:
        if row["rule"] == "alpha = c r":
            row["by_seed"]["ratio_to_full"] = {"8": [2.0] * 8}
    claim = claims.of("mnist")(summary, "command")[3]
    assert claim.facts[0].said == "short training, r = 8: LoRA's best rate is within a factor of 2 of ten times full's"
    assert claim.facts[0].shown.startswith("8.") and " times, 90 % [" in claim.facts[0].shown
    assert "short 2.0 with alpha = c r" in claim.reason


def test_figures_say_what_is_shown(monkeypatch):
    """Of the linear teacher's reference run: what its losses are of, how many seeds, and which points carry the exponents."""
    summary = json.loads((FOLDER / "results" / "best_rate_linear" / "summary.json").read_text())
    monkeypatch.setattr(figures.style, "save", lambda figure, path: figure)
    told = {}
    for draw in (figures._against_rank, figures._bowls, figures._shared):
        figure = draw(summary, None)
        told[draw.__name__] = figure.get_suptitle(), figure.axes[0].get_ylabel()
        figures.style.plt.close(figure)
    assert all("n = 10 seeds" in title for title, _ in told.values())
    assert told["_bowls"][1] == "error above the least of the rank, mean over seeds"
    assert "dots: each seed's own, from which the exponents are" in told["_against_rank"][0]


def test_the_entry(tmp_path, capsys):
    arguments = (
        "--problem=linear",
        "--preset=smoke",
        "--seeds=2",
        "--ranks=1,4",
        f"--workdir={tmp_path}",
        "--accelerator=cpu",
    )
    assert execute("rate_against_rank.py", *arguments, "--figure_format=png,svg", "--dpi=50") == 0
    (folder,) = tmp_path.glob("best_rate_linear-*")
    summary = json.loads((folder / "summary.json").read_text())
    for row in summary["cells"]:
        assert len(row["by_seed"]["tuning_losses"]) == 2 and len(row["by_seed"]["tuning_losses"][0]) == len(
            row["rates"]
        )
        assert np.diff(np.log(row["rates"])) == pytest.approx(np.log(STEP), rel=1e-4)
    assert {path.suffix for path in folder.glob("best_rate_vs_rank.*")} == {".png", ".svg"}
    with Image.open(folder / "loss_vs_rate.png") as picture:
        assert picture.size == (600, 210)
    assert "alpha / sqrt(r)" in figures.table(summary)
    capsys.readouterr()
    assert execute("rate_against_rank.py", *arguments) == 0  # complete: it draws again, and trains nothing
    assert "is complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--problem=linear", "--data_dir=x"), "--data_dir has no meaning with --problem=linear"),
        (("--problem=linear", "--ranks=64"), "--ranks: 64 is above 32"),
        (("--problem=linear", "--figure_format=gif"), "expected some of png, svg, pdf"),
    ],
)
def test_what_cannot_be_is_refused(arguments, said, capsys):
    assert execute("rate_against_rank.py", *arguments) in (1, 2)
    assert said in capsys.readouterr().err


def test_ranks_that_are_not_low_are_refused():
    with pytest.raises(UserError, match="half the width"):
        Settings(problem="linear", ranks=(1, 64))
