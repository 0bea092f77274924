"""Do the notebooks run from the first cell to the last, with every claim that they assert, and is what they print small?"""

import pathlib

import pytest

jupytext = pytest.importorskip("jupytext")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("mlxtend")
pytest.importorskip("matplotlib")

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.py"))
NAMES = {"lora_in_ten_minutes", "peft_and_back", "what_rank_does", "llm_on_a_laptop"}
MOST_BYTES = 200_000  # of what a notebook prints and draws
MOST_SECONDS = 600  # of a cell, or of the kernel's start, on a machine that does much else


def executed(path: pathlib.Path, at: pathlib.Path, monkeypatch):
    """The notebook after a run in a kernel of its own. Raises CellExecutionError where a cell does: an assertion that fails, say."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # what XLA compiles runs for seconds
    notebook = jupytext.read(path)
    client = nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=MOST_SECONDS,
        startup_timeout=MOST_SECONDS,
        resources={"metadata": {"path": str(at)}},
    )
    return client.execute()


def outputs(notebook) -> list:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_these_are_the_notebooks():
    assert {path.stem for path in NOTEBOOKS} == NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_prints_little(path, tmp_path, monkeypatch):
    found = outputs(executed(path, tmp_path, monkeypatch))
    assert found
    assert not [output.text for output in found if output.get("name") == "stderr" and "Warning" in output.text]
    assert sum(len(str(output)) for output in found) < MOST_BYTES
    assert not list(tmp_path.iterdir())  # a notebook leaves nothing where it is read


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_asserts_what_it_claims(path):
    """That base, adapter off and round trips are exact is said by assertions, and each notebook has some."""
    cells = [cell for cell in jupytext.read(path).cells if cell.cell_type == "code"]
    assert sum("assert" in cell.source for cell in cells) >= 3
