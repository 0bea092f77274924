"""The README's Python blocks run, one after the other; tests/docs/test_commands.py looks at its commands."""

import pytest

from tests.docs import blocks

pytestmark = pytest.mark.usefixtures("quick_compile")
README = blocks.ROOT / "README.md"


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = blocks.run(README)
    assert "lora_b nonzero 0/1" in capsys.readouterr().out
    assert names["losses"].shape == (24, 4)
    assert names["logits"].shape == (2, 2)
    assert names["norms"]["bert"]


def test_file_tree_names_files_that_exist():
    tree = README.read_text().split("## Where things are")[1].split("```")[1].strip()
    folder = None
    for line in tree.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = README.parent / name
            assert folder.exists(), name
        else:
            assert (folder / name.rstrip(",")).exists(), name
