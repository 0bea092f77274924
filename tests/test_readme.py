"""The README's Python blocks run, one after the other, and its commands name programs that exist."""

import pathlib
import re

import pytest

pytestmark = pytest.mark.usefixtures("quick_compile")
README = pathlib.Path(__file__).parent.parent / "README.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in _blocks("python"):
        exec(compile(block, str(README), "exec"), names)  # the README is code that we wrote
    assert "lora_b nonzero 0/1" in capsys.readouterr().out
    assert names["losses"].shape == (24, 4)
    assert names["logits"].shape == (2, 2)
    assert names["norms"]["bert"]


@pytest.mark.parametrize("command", re.findall(r"python (\S+\.py)", README.read_text()))
def test_commands_name_files_that_exist(command):
    assert (README.parent / command).is_file()


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
