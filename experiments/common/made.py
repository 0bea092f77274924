"""Parts of a Markdown page that a program writes, so that no number on it is typed by hand. Nothing here imports jax.

A part lies between two comments. The first says what is made, of what:

    <!-- made: verdicts S1.* -->
    ...
    <!-- made until here -->
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

from experiments.common.errors import UserError

Maker = Callable[[str], str]  # what stands behind the kind -> Markdown
BEGIN, END = re.compile(r"<!-- made: (\S+) ?(.*?) ?-->"), "<!-- made until here -->"
DEPTH = {"(": 1, "[": 1, ")": -1, "]": -1}


def filled(text: str, makers: Mapping[str, Maker]) -> str:
    """The page with every part made anew; the rest of it stays as it is.

    >>> print(filled("Ours:\\n<!-- made: twice 4 -->\\n<!-- made until here -->\\n", {"twice": lambda of: str(2 * int(of))}))
    Ours:
    <!-- made: twice 4 -->
    <BLANKLINE>
    8
    <BLANKLINE>
    <!-- made until here -->
    <BLANKLINE>

    Raises:
      UserError: for a part that does not end, or of a kind that nobody makes.
    """
    found, rest = "", text
    while begin := BEGIN.search(rest):
        kind, of = begin.groups()
        if kind not in makers:
            raise UserError(f"{begin[0]}: nobody makes {kind!r}; there are {', '.join(makers)}.")
        _, end, after = rest[begin.end() :].partition(END)
        if not end:
            raise UserError(f"{begin[0]} does not end; write {END} where it should.")
        found += f"{rest[: begin.end()]}\n\n{makers[kind](of)}\n\n{end}"
        rest = after
    return found + rest


def asked(text: str, kind: str) -> list[str]:
    """What the page's parts of a kind are made of.

    >>> asked("<!-- made: verdicts S1.* S2.1 -->", "verdicts")
    ['S1.* S2.1']
    """
    return [of for said, of in BEGIN.findall(text) if said == kind]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(table(["a", "b"], [["1|2", "x"]]))
    | a | b |
    |---|---|
    | 1\\|2 | x |
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(_line(cells, is_rule=i == 1) for i, cells in enumerate(lines))


def _line(cells: Sequence[str], is_rule: bool) -> str:
    if is_rule:
        return "|" + "|".join(cells) + "|"
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def plain(text: str) -> str:
    """Text in which Markdown sees no markup.

    >>> plain("W* - W0 < a_b")
    'W\\\\* - W0 &lt; a\\\\_b'
    """
    return re.sub(r"([*_`])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def parts(text: str) -> list[str]:
    """A text at its semicolons, but for those within brackets.

    >>> parts("one (a; b); two")
    ['one (a; b)', 'two']
    """
    return [part for part in _parts(text) if part]


def _parts(text: str) -> Iterator[str]:
    depth, begin = 0, 0
    for i, letter in enumerate(text):
        depth += DEPTH.get(letter, 0)
        if letter == ";" and not depth:
            yield text[begin:i].strip()
            begin = i + 1
    yield text[begin:].strip()


def folded(summary: str, items: Sequence[tuple[str, Sequence[str]]]) -> str:
    """HTML that is folded away under its summary: a list of names, each with what is said of it; what says nothing is left out.

    >>> print(folded("more", [("a", ["1", "2"]), ("b", ["<3"]), ("c", [])]))
    <details><summary>more</summary><ul>
    <li>a:<ul><li>1</li><li>2</li></ul></li>
    <li>b: &lt;3</li>
    </ul></details>
    """
    lines = [f"<li>{escape(name, quote=False)}:{_said(texts)}</li>" for name, texts in items if texts]
    return "\n".join([f"<details><summary>{escape(summary, quote=False)}</summary><ul>", *lines, "</ul></details>"])


def _said(texts: Sequence[str]) -> str:
    if len(texts) == 1:
        return f" {escape(texts[0], quote=False)}"
    return "<ul>" + "".join(f"<li>{escape(text, quote=False)}</li>" for text in texts) + "</ul>"
