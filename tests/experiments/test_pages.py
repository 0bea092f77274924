"""Do the studies' pages say what the ledger says, and are the parts of a page made as they should be?"""

import doctest
import json
import re
import shutil

import pytest

from experiments.benchmarks import report
from experiments.common import made
from experiments.common.errors import UserError
from experiments.ledger import pages
from experiments.suite import command

CLAIMS = pages.read()
BY_PATH = {path.name: path.read_text() for path in pages.pages()}


def claim(id: str, verdict: str = "holds", **more) -> dict:
    declared = {"date": "2026-01-01", "unit": "seed", "asks": "a; b", "margin": None, "after_a_look": ""}
    measured = {"ours": "1 [0, 2]; 3", "n": 4, "facts": [], "reason": "why", "command": "python x.py"}
    return {
        "id": id,
        "statement": "it falls | so",
        "published": "-",
        "verdict": verdict,
        "declared": declared,
        **measured,
        **more,
    }


@pytest.mark.parametrize("name", BY_PATH)
def test_a_page_is_what_the_ledger_gives(name):
    """Else: python experiments/reproduce.py --from_results=experiments/results."""
    assert pages.filled(BY_PATH[name], CLAIMS) == BY_PATH[name]


@pytest.mark.parametrize("name", BY_PATH)
def test_no_words_rest_on_a_verdict_that_has_changed(name):
    assert pages.stale(BY_PATH[name], CLAIMS) == []


@pytest.mark.parametrize("kind", ["verdicts", "details"])
def test_every_claim_is_on_one_page(kind):
    shown = [
        one["id"] for text in BY_PATH.values() for of in made.asked(text, kind) for one in pages.chosen(of, CLAIMS)
    ]
    assert sorted(shown) == sorted(one["id"] for one in CLAIMS)


def test_every_declared_claim_has_a_page_that_waits_for_it():
    """Those without a verdict, too."""
    from experiments.ledger import declared

    patterns = [of for text in BY_PATH.values() for of in made.asked(text, "verdicts")]
    for id in declared._all():
        assert sum(bool(pages.chosen(of, [claim(id)])) for of in patterns) == 1, id


def test_the_index_names_every_page():
    [of] = made.asked(BY_PATH["index.md"], "studies")
    assert sorted(of.split()) == sorted(name.removesuffix(".md") for name in BY_PATH if name != "index.md")


@pytest.mark.parametrize("name", [name for name in BY_PATH if name != "index.md"])
def test_a_page_has_a_claim_a_figure_and_a_command(name):
    text = BY_PATH[name]
    assert made.asked(text, "verdicts") and made.asked(text, "facts") and made.asked(text, "details")
    assert "](../../experiments/results/" in text or made.asked(text, "figure")
    assert re.search(r"```bash\npython experiments/\S+\.py ", text)


@pytest.mark.parametrize("name", BY_PATH)
def test_figures_are_there(name):
    for link in re.findall(r"\]\((\.\./\.\./[^)]*)\)", BY_PATH[name]):
        assert (pages.DOCS / link).resolve().is_file(), link


def test_verdicts_facts_and_details():
    facts = [{"asked": "it falls", "answer": None, "measured": "2 [-1, 3]"}]
    text = "".join(f"<!-- made: {kind} A.* -->\n{made.END}\n" for kind in ("verdicts", "facts", "details"))
    said = pages.filled(text, [claim("A.1", facts=facts), claim("A.2", "does not hold"), claim("B.1")])
    assert "| A.1 | it falls \\| so | - | 4 | **holds** |" in said and "**does not hold**" in said
    assert "| A.1 | it falls | 2 [-1, 3] | not settled |" in said
    assert "| A.2 | it falls \\| so | 1 [0, 2]; 3 | does not hold |" in said
    assert "<li>Measured here:<ul><li>1 [0, 2]</li><li>3</li></ul></li>" in said
    assert "n counts: seed." in said and "B.1" not in said
    assert pages.filled(said, [claim("A.1", facts=facts), claim("A.2", "does not hold"), claim("B.1")]) == said


def test_what_is_not_there_yet_is_said():
    text = f"<!-- made: verdicts X.* -->{made.END}<!-- made: run nowhere -->{made.END}<!-- made: figure no/such.png | a curve -->{made.END}"
    said = pages.filled(text, CLAIMS)
    assert pages.NONE_YET in said and "No run is kept in `experiments/results/nowhere` yet." in said
    assert "*A figure that the next run draws: a curve.*" in said


def test_words_that_rest_on_another_verdict_are_found():
    text = "<!-- rests on A.1: holds -->\n<!-- rests on A.2: holds -->\n<!-- rests on A.3: holds -->"
    said = pages.stale(text, [claim("A.1"), claim("A.2", "not settled")])
    assert len(said) == 2 and "A.2" in said[0] and "'not settled'" in said[0] and "'nothing'" in said[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- made: verdict A.* -->", "nobody makes 'verdict'; there are verdicts, facts"),
        ("<!-- made: verdicts A.* -->", "does not end"),
        (f"<!-- made: figure a.png -->{made.END}", "say what it shows"),
    ],
)
def test_a_part_that_is_wrong_is_a_sentence(text, said):
    with pytest.raises(UserError, match=said):
        pages.filled(text, CLAIMS)


def test_pages_are_written_only_where_they_differ(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "docs" / "studies"
    folder.mkdir(parents=True)
    (tmp_path / "CLAIMS.json").write_text(json.dumps({"claims": [claim("A.1")]}))
    (folder / "a.md").write_text(f"# A\n<!-- rests on A.1: not settled -->\n<!-- made: verdicts A.* -->\n{made.END}\n")
    (folder / "b.md").write_text("# B\n")
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    monkeypatch.setattr(pages, "DOCS", folder)
    assert pages.write() == [folder / "a.md"] and pages.write() == []
    assert "| A.1 |" in (folder / "a.md").read_text()
    assert "docs/studies/a.md: the words after 'rests on A.1: not settled'" in capsys.readouterr().out


@pytest.mark.parametrize("is_kept_there", [True, False])
def test_reproduce_makes_the_pages_of_the_repository_s_ledger_alone(is_kept_there, run_entry, tmp_path, monkeypatch):
    kept, made_of = tmp_path / "results", []
    shutil.copytree(pages.RESULTS / "best_rate_linear", kept / "best_rate_linear")
    monkeypatch.setattr(command, "RESULTS", kept if is_kept_there else tmp_path / "other")
    monkeypatch.setattr(pages, "write", lambda: made_of.append((kept / "CLAIMS.json").is_file()) or ["docs/a.md"])
    status, stdout, _ = run_entry("reproduce.py", f"--from_results={kept}")
    assert status == 0 and made_of == [True] * is_kept_there
    assert ("page: docs/a.md" in stdout) == is_kept_there


@pytest.mark.parametrize("module", [made, report])
def test_examples(module):
    assert doctest.testmod(module).failed == 0


def test_a_page_names_every_run_that_its_results_came_from(tmp_path, monkeypatch):
    about = {"commit": "a", "packages": {"jax": "1"}, "device": "cpu:0", "cores": 2}
    (tmp_path / "x").mkdir()
    monkeypatch.setattr(pages, "RESULTS", tmp_path)

    def said(**summary) -> str:
        (tmp_path / "x" / "environment.json").write_text(json.dumps(about | {"commit": "b"}))
        (tmp_path / "x" / "summary.json").write_text(json.dumps({"right": [], **summary}))
        return pages._run("x")

    assert "The run that is kept: `experiments/results/x`, commit `b`, jax 1 on cpu:0, 2 cores." in said()
    both = said(runs=[about, about, about | {"commit": "b"}])
    assert "each going on from the one before it: `experiments/results/x`, commit `a`" in both
    assert both.count("commit `a`") == both.count("commit `b`") == 1
