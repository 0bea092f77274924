"""The code blocks of a page: found, told apart, and run as a reader would, one after the other in one namespace."""

import pathlib
import re
import shlex
import textwrap
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*\Z", re.DOTALL)


class Block(NamedTuple):
    """`line` is that of the first line of code, from 1; `not_run` is the reason that a comment right above the block gives."""

    language: str
    code: str
    line: int
    not_run: str | None


def of(text: str, language: str) -> list[Block]:
    """The blocks of a language.

    >>> of("a\\n\\n<!-- not run: needs a hub -->\\n```python\\nx = 1\\n```\\n", "python")
    [Block(language='python', code='x = 1\\n', line=5, not_run='needs a hub')]
    """
    found = (match for match in BLOCK.finditer(text) if match["language"] == language)
    return [
        Block(language, textwrap.dedent(m["code"]), text[: m.start("code")].count("\n") + 1, _reason(text[: m.start()]))
        for m in found
    ]


def _reason(before: str) -> str | None:
    reason = NOT_RUN.search(before)
    return reason and reason[1]


def run(page: pathlib.Path) -> dict:
    """Runs the Python blocks of a page in the present folder; what they define. A traceback names the line of the page."""
    names: dict = {"__name__": "__main__"}
    for block in of(page.read_text(), "python"):
        if block.not_run is None:
            exec(
                compile("\n" * (block.line - 1) + block.code, str(page), "exec"), names
            )  # pages are code that we wrote
    return names


def pages() -> list[pathlib.Path]:
    """The pages of docs/ but those of the API, whose examples are the docstrings'."""
    return sorted(path for path in DOCS.rglob("*.md") if path.parent.name != "api")


def name(page: pathlib.Path) -> str:
    """A page as a test is named by it."""
    return str(page.relative_to(ROOT))


def commands(text: str) -> list[list[str]]:
    """The commands of the bash blocks, as words; what a shell ends a command by, and variables before one, are gone.

    >>> commands("```bash\\nA=1 python x.py --a=1 \\\\\\n  --b  # why\\npip install y &\\n```\\n")
    [['python', 'x.py', '--a=1', '--b'], ['pip', 'install', 'y']]
    """
    return [words for block in of(text, "bash") for line in _lines(block.code) for words in _simple(line) if words]


def _lines(code: str) -> list[str]:
    return code.replace("\\\n", " ").splitlines()


def _simple(line: str) -> list[list[str]]:
    """Of one line: its commands, parted at `&&`, `;`, `|` and `&`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|")
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("&;|"):
            parts.append([])
        elif parts[-1] or not re.match(r"\w+=", word):
            parts[-1].append(word)
    return parts
