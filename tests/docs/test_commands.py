"""Do the commands of the README and of the documentation name programs, flags, values and extras that exist?"""

import importlib.util
import re
import tomllib

import pytest

from experiments.common import cli
from tests.docs import blocks
from tests.experiments import entries

PAGES = [blocks.ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + blocks.pages()
COMMANDS = [(blocks.name(page), words) for page in PAGES for words in blocks.commands(page.read_text())]
PROJECT = tomllib.loads((blocks.ROOT / "pyproject.toml").read_text())["project"]
PYTHON = ("python", "python3")


def of_program(*programs: str) -> list:
    """The commands of a program, each once, with the page that it stands on."""
    found = {" ".join(words): (page, words) for page, words in COMMANDS if words[0] in programs}
    return [pytest.param(words[1:], id=f"{page}: {command}") for command, (page, words) in found.items()]


@pytest.mark.parametrize("words", of_program(*PYTHON))
def test_python_is_given_what_is_there(words, monkeypatch, capsys):
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1])
        return
    assert (blocks.ROOT / words[0]).is_file()
    if words[0].startswith("experiments/"):
        monkeypatch.setattr(cli, "guarded", lambda main: None)  # flags are read, and nothing is run
        flags = [word.replace("gs://", "/") for word in words[1:]]  # a bucket needs a package that may not be here
        status = entries.execute(words[0].removeprefix("experiments/"), *flags)
        assert status == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=blocks.name)
def test_programs_that_the_text_names_exist(page):
    """In a sentence, and within a command for another machine, too."""
    assert all((blocks.ROOT / path).is_file() for path in re.findall(r"python (\w\S*\.py)", page.read_text()))


@pytest.mark.parametrize("words", of_program("pytest"))
def test_pytest_is_given_files_that_are_there(words):
    given = [word.partition("::")[0] for word in words if word.startswith("tests")]
    assert all((blocks.ROOT / path).exists() for path in given)


@pytest.mark.parametrize("words", of_program("pip"))
def test_extras_that_are_installed_exist(words):
    extras = {
        name for word in words for found in re.findall(r"^(?:\.|lora_jax)\[(.*)\]$", word) for name in found.split(",")
    }
    assert extras <= set(PROJECT["optional-dependencies"])
