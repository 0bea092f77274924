"""`tiny_lm.py --job=study`, from text to figures, on a model of 16 dimensions (test_following_study has its parts)."""

import contextlib
import dataclasses
import io
import json
import pathlib

import jax
import pytest
from etils import epath

from experiments.common.errors import UserError
from experiments.data.instructions import checkable
from experiments.following import course, figures, read, runs, tables
from experiments.following.settings import PARTS, PRESETS, Settings
from experiments.lm import pretraining_settings
from experiments.suite import keep
from lora_jax.models import causal_lm
from lora_jax.models.causal_lm import CausalLMConfig
from tests.experiments import entries, tiny_lm

PRETRAINING = pretraining_settings.Settings(
    "0.3M", 128, 4, 6000, held_out_tokens=600, vocab_size=1500, list_steps=2, lists=0.1, dialogues=0.1
)
WHOLE = Settings(
    PRETRAINING, parts=("arms", "others", "study", "open", "doses", "control"), controls=False, size="0.3M", other_sizes=(), bases=2, seeds=2,
    items=230, tuning=46, held_out=2, general_rows=2, steps=1, ranks=(1, 8), tuning_seeds=1, widenings=0, lora_rates=(1e-2,), full_rates=(1e-2,),
    epochs=(1, 2), dose_steps=1, doses=(3,), dose_ranks=(1,), open_pairs=40, open_held_out=12, open_steps=1, prompts=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> pathlib.Path:
    """A corpus of the items' own words, and questions with and without input."""
    path = tmp_path_factory.mktemp("home")
    items = checkable.items(230, 0, words="trained", phrasings="trained")
    texts = [" ".join(f"{item.question} {item.answer}." for item in items[at : at + 10]) for at in range(0, 230, 10)]
    (path / "text.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    rows = [
        {"instruction": f"{verb} the {thing} {i}", "input": f"the {thing}" if i % 2 else "", "output": f"{thing} {i} word"}
        for i, (verb, thing) in enumerate((verb, thing) for verb in ("Show", "Take", "Name", "Keep", "Drop", "Turn") for thing in tiny_lm.THINGS)
    ]  # fmt: skip
    (path / "questions.json").write_text(json.dumps(rows))
    return path


def small(patch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The whole study as the preset "smoke"."""
    patch.setitem(causal_lm.PRESETS, "0.3M", CausalLMConfig(1500, 16, 24, 2, 2, 1, 160))
    patch.setitem(PRESETS, "smoke", WHOLE)
    return patch


def command_of(home: pathlib.Path, workdir: pathlib.Path) -> tuple[str, ...]:
    """The study of what lies at home."""
    files = f"--corpus={home / 'text.jsonl'}", f"--questions={home / 'questions.json'}"
    return "tiny_lm.py", "--job=study", "--preset=smoke", f"--workdir={workdir}", *files


@pytest.fixture(scope="module")
def ran(home, quick_compile) -> tuple[str, pathlib.Path]:
    """What the whole study prints after a run of its first part on one of two bases, and its run's folder."""
    patch = small(pytest.MonkeyPatch())
    command = command_of(home, home / "runs")
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        assert entries.execute(*command, "--parts=arms", "--bases=1") == 0
        stdout.truncate(stdout.seek(0))
        status = entries.execute(*command)
    patch.undo()
    assert status == 0
    folders = {len(_parts(folder)): folder for folder in (home / "runs").glob("following-*")}
    assert set(folders) == {1, 5}
    return stdout.getvalue(), folders[5]


@pytest.fixture(scope="module")
def continued(ran, home) -> tuple[str, pathlib.Path]:
    """What a run elsewhere prints that goes on from the first part on one base, and its run's folder."""
    patch = small(pytest.MonkeyPatch())
    first = next(folder for folder in (home / "runs").glob("following-*") if len(_parts(folder)) == 1)
    command = command_of(home, home / "elsewhere")
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        assert entries.execute(*command, "--parts=arms,study", f"--onto={first}") == 0
    patch.undo()
    (folder,) = (home / "elsewhere").glob("following-*")
    return stdout.getvalue(), folder


def _parts(folder: pathlib.Path) -> set[str]:
    return {row["part"] for row in json.loads((folder / "summary.json").read_text())["rows"]}


def test_a_run_of_more_parts_and_bases_goes_on_with_what_is_trained(ran):
    stdout, folder = ran
    assert "one epoch 0.3M the study's LoRA r=8, base 0: 1 of 1 blocks" in stdout
    assert "checkable 0.3M LoRA r=8, base 1" in stdout
    assert "checkable 0.3M LoRA r=8, base 0" not in stdout and "tiny_lm_pretrain-" in stdout
    assert not list(folder.parent.glob("following_training-*/phases/*"))  # what was saved has served


def test_a_run_elsewhere_goes_on_from_a_summary_and_ends_as_one_run(ran, continued):
    stdout, folder = continued
    assert "checkable 0.3M full, base 1" in stdout and "checkable 0.3M full, base 0" not in stdout
    assert "base 0: 1 of 1 blocks" in stdout, "the study's own arm was not in that summary"
    one, other = (json.loads((path / "summary.json").read_text()) for path in (ran[1], folder))
    assert [len(found["runs"]) for found in (one, other)] == [1, 2] and other["kinds"] == one["kinds"]
    assert other["tuning"] == [
        line for line in one["tuning"] if line["size"] == "0.3M" and line["lesson"] == "checkable"
    ]
    rows = {_name(row): row for row in one["rows"]}
    assert {row["part"] for row in other["rows"]} == {"arms", "the study's"}
    for row in other["rows"]:
        alone = rows[_name(row)]
        assert (
            row["units"] == alone["units"] and row["right"] == alone["right"] and row.get("said") == alone.get("said")
        )
        assert row["runs"] == ([0, 1] if row["part"] == "arms" else [1, 1]) and alone["runs"] == [0, 0]
        for part, nats in row["nats"].items():
            assert nats == pytest.approx(alone["nats"][part], abs=2e-4)
    assert set(other["outputs"]) == {
        name for name in one["outputs"] if not any(part in f"{name}." for part in ("open", "no copying", "LoRA r=1."))
    }
    assert all(said == one["outputs"][name] for name, said in other["outputs"].items())
    assert other["weights"] == {"0.3M": one["weights"]["0.3M"]} and other["lessons"].items() <= one["lessons"].items()


def _name(row) -> tuple:
    return row["part"], row["name"], row["size"], row["arm"], row["steps"]


def test_a_base_that_nothing_asks_for_is_not_trained(ran, home, capsys, monkeypatch):
    """Goes on from the whole of it: every row is there, of parts that are asked for and of others."""
    small(monkeypatch)
    command = (*command_of(home, home / "third"), f"--onto={ran[1]}")
    assert entries.execute(*command, "--parts=arms,open") == 0
    assert entries.execute(*command, "--parts=arms", "--bases=1") == 0
    capsys.readouterr()
    assert not list((home / "third").glob("tiny_lm_pretrain-*/summary.json"))
    folders = list((home / "third").glob("following-*"))
    assert len(folders) == 2, "what was asked for is not the same"
    one, *others = (json.loads((path / "summary.json").read_text()) for path in (ran[1], *folders))
    for other in others:
        assert {_name(row): row for row in other["rows"]} == {_name(row): row for row in one["rows"]}
        assert other["settings"] == one["settings"] and other["questions"] == one["questions"]
        assert other["runs"] == one["runs"], "a run that taught nothing is none that results came from"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found.clear(), "does not hold what is expected there"),
        (lambda found: found["settings"].update(steps=9), "of its settings, steps is 9, and 1 here"),
        (lambda found: found["data"]["corpus"].update(sha256="0"), "of its data, corpus.sha256 is '0'"),
        (
            lambda found: found["constant"].update(first=0.75),
            "constant of that run and of this one differ",
        ),
        (lambda found: found["shown"].pop(), "shown of that run and of this one differ"),
        (lambda found: found["lessons"].update(checkable="0"), "other items under the name of 'checkable'"),
        (lambda found: found["rows"][0].pop("steps"), "does not hold what is expected there"),
        (lambda found: _row_of(found, "study").update(rate=1.0), "has (0.0001"),
        (lambda found: _row_of(found, "study").update(steps=999), "was measured after [999] updates"),
        (lambda found: found.update(weights=[1]), "does not hold what is expected there"),
        (lambda found: found["lessons"].update(prompts="0"), "other items under the name of 'prompts'"),
        (
            lambda found: _without(found, "study") or found["weights"]["0.3M"].update({"1": "0"}),
            "is compared with rows of base 1, which has other weights here",
        ),
        (
            lambda found: _without(found, "study") or found.pop("weights"),
            "rows of base 0, which has weights that were not noted",
        ),
    ],
)
def test_another_study_is_not_gone_on_from(change, said, ran, home, tmp_path, capsys, monkeypatch):
    small(monkeypatch)
    found = json.loads((ran[1] / "summary.json").read_text())
    change(found)
    (tmp_path / "summary.json").write_text(json.dumps(found))
    (tmp_path / "environment.json").write_text((ran[1] / "environment.json").read_text())
    command = command_of(home, tmp_path / "runs")
    assert entries.execute(*command, f"--onto={tmp_path}") == 2
    assert said in capsys.readouterr().err


def _row_of(found: dict, part: str) -> dict:
    return next(row for row in found["rows"] if row["part"] == course.NAMES.get(part, part))


def _without(found: dict, part: str) -> None:
    found["settings"]["parts"].remove(part)
    found["rows"] = [row for row in found["rows"] if row["part"] != course.NAMES.get(part, part)]


def test_a_folder_without_a_summary_is_refused(home, capsys, tmp_path):
    command = command_of(home, tmp_path)
    assert entries.execute(*command, f"--onto={tmp_path}") == 2
    said = capsys.readouterr().err
    assert f"--onto: {tmp_path / 'summary.json'} cannot be read" in said and "name the folder of a finished run" in said


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ("arms,medical", "this preset and size have no part 'medical'; they have arms, study"),
        ("study", "arms is missing"),
        ("arms,arms", "named 2 times"),
        ("all", "expected some of arms, others, study"),
        ("arms --sizes=0.3M", "--sizes has no meaning without --parts=...,sizes"),
    ],
)
def test_parts_that_make_no_run_are_refused(parts, said, capsys, tmp_path):
    named = f"--parts={parts}".split()
    status = entries.execute("tiny_lm.py", "--job=study", "--preset=smoke", *named, f"--workdir={tmp_path}")
    assert status in (1, 2) and said in capsys.readouterr().err


def test_a_size_that_the_part_has_not_is_refused(capsys, tmp_path):
    named = "--parts=arms,sizes", "--sizes=10M"
    assert entries.execute("tiny_lm.py", "--job=study", "--preset=full", *named, f"--workdir={tmp_path}") == 2
    assert "--sizes: the part sizes has no 10M; it has 0.3M, 3M" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bases", "said"),
    [
        (3, "--bases=3: this preset and size have 2"),
        (1, "--seeds=1: of 1 base that is one run"),
        (0, "an integer from 1"),
    ],
)
def test_bases_that_make_no_run_are_refused(bases, said, capsys, tmp_path):
    status = entries.execute("tiny_lm.py", "--job=study", "--preset=smoke", f"--bases={bases}", f"--workdir={tmp_path}")
    assert status in (1, 2) and said in capsys.readouterr().err


def test_every_part_is_in_the_summary_and_in_the_figures(ran):
    stdout, folder = ran
    summary = json.loads((folder / "summary.json").read_text())
    assert _parts(folder) == {"arms", "the study's", "doses", "open", "control"}
    assert {row["size"] for row in summary["rows"] if row["part"] == "control"} == {"no copying"}
    assert all(len(row["units"]) == 4 for row in summary["rows"] if row["part"] == "arms" and row["steps"])
    assert summary["base_unchanged"]
    assert {path.name for path in folder.glob("*.png")} == {
        "what_trains.png",
        "kinds.png",
        "doses.png",
        "questions.png",
    }
    assert stdout.count("figure: ") >= 5


def test_rows_of_every_part_have_a_name_that_is_read():
    """Where a part of the study's LoRA had a name of its own, its claim would go missing without a word."""
    assert {course.NAMES.get(part, part) for part in PARTS} == {
        "arms", "the study's", "open", "medical", "converged", "doses", "control", "sizes"
    }  # fmt: skip


def test_a_base_that_fails_the_gate_says_so_first(ran):
    table = (ran[1] / "table.txt").read_text()
    assert "THE GATE IS CLOSED" in table.split("s/step")[0] and table.index("THE GATE") < table.index("right:")


def test_ranks_alone_are_told_and_drawn_too(ran, tmp_path):
    """As `rank_sweep.py --task=tiny_lm --ranks=1` leaves them: without the study's LoRA, and without r = 8."""
    summary = json.loads((ran[1] / "summary.json").read_text())
    rows = [row for row in summary["rows"] if row["part"] == "arms" and row["arm"] != "LoRA r=8"]
    alone = summary | {"rows": rows}
    assert "LoRA r=1 " in tables.table(alone) and "LoRA r=8" not in tables.table(alone).split("learning rates")[0]
    assert [path.name for path in figures.draw(alone, epath.Path(tmp_path))] == [
        "what_trains.png",
        "kinds.png",
        figures.OUTPUTS,
    ]


def test_each_arm_is_read_beside_the_others(ran):
    summary = json.loads((ran[1] / "summary.json").read_text())
    said = (ran[1] / figures.OUTPUTS).read_text()
    for arm in ("base", "checkable: full", "checkable: LoRA r=8", "epochs: the study's LoRA r=16"):
        assert said.count(f"- **0.3M, {arm}**:") == len(summary["shown"]) == 33
    row = read.row(summary, "arms", "full")
    assert f"{row['parameters']:,}" in tables.table(summary)


@pytest.mark.parametrize(
    ("parts", "asked"),
    [(("arms",), ()), (("arms", "open"), ("open",)), (("arms", "medical"), ("open", "medical"))],
)
def test_beside_medical_questions_open_ones_are_asked_too(parts, asked):
    assert runs.of_questions(dataclasses.replace(WHOLE, parts=parts)) == asked


def test_the_base_of_the_quick_study_lies_in_the_repository():
    (found,) = runs.bases(PRESETS["quick"], None, None)["1M"]
    assert sum(leaf.size for leaf in jax.tree.leaves(found.params)) == 1_148_032


def test_what_is_no_run_of_s4_is_not_kept(tmp_path):
    with pytest.raises(UserError, match="holds no finished run"):
        keep.run(epath.Path(tmp_path))


def test_a_run_is_kept_with_what_its_models_say(continued, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(keep, "RESULTS", epath.Path(tmp_path))
    with pytest.raises(UserError, match="of its settings, pretraining.size is '0.3M', and '1M' here"):
        keep.run(epath.Path(continued[1]))
    monkeypatch.setitem(PRESETS, "full", WHOLE)
    keep.run(epath.Path(continued[1]))
    there = {path.name for path in (tmp_path / "following").iterdir()}
    assert {"summary.json", "environment.json", "table.txt", "what_trains.png", figures.OUTPUTS} <= there
    assert "kept: " in capsys.readouterr().out
    with pytest.raises(UserError, match=r"lacks 2 arms that are kept, LoRA r=1 \(a: b, c\) among them"):
        keep._require_all(
            continued[1], [], [{"part": "a", "name": "b", "size": "c", "arm": f"LoRA r={rank}"} for rank in (4, 1)]
        )
