"""Answers checkable instructions by their text alone: which phrasing it is, by regular expressions; what stands in its places; the rule."""

import re
from typing import NamedTuple

from experiments.data.instructions import words
from experiments.data.instructions.phrasings import PHRASINGS

WORD, NUMBER = "[A-Za-z]+", "[0-9]+"
LIST = "[a-z]+(?:, [a-z]+){2,5}|[a-z]+(?: [a-z]+){2,5}"
SENTENCE = r"[A-Z][a-z]*(?: [A-Za-z]+){4,8}\."
STORY = r"[A-Z][a-z]+ [a-z]+ the [a-z]+ to [A-Z][a-z]+ in the [a-z]+\."
ASKED = r"(?:Who [a-z]+ the [a-z]+|What did [A-Z][a-z]+ [a-z]+|Where did [A-Z][a-z]+ [a-z]+ it|To whom did [A-Z][a-z]+ [a-z]+ it)\?"
PLACES = {
    "w": WORD,
    "v": WORD,
    "k": "second|third|fourth",
    "n": "two|three|four|five",
    "a": NUMBER,
    "b": NUMBER,
    "q": ASKED,
}
INPUTS = dict.fromkeys(("copy", "s_first", "s_last", "s_member", "replace"), SENTENCE) | {"story": STORY}
OPPOSITE = {one: other for pair in words.OPPOSITES for one, other in (pair, pair[::-1])}


class Read(NamedTuple):
    """A question understood: `given` is what stands in the phrasing's places, by their letters."""

    kind: str
    phrasing: int
    given: dict[str, str]


def _pattern(kind: str, phrasing: str) -> re.Pattern:
    places = PLACES | {"x": INPUTS.get(kind, LIST)}
    parts = re.split(r"\{(.)\}", phrasing)
    return re.compile(
        "".join(f"(?P<{part}>{places[part]})" if i % 2 else re.escape(part) for i, part in enumerate(parts))
    )


PATTERNS = [(kind, i, _pattern(kind, text)) for kind, texts in PHRASINGS.items() for i, text in enumerate(texts)]


def readings(question: str) -> list[Read]:
    """All that a question can be."""
    found = ((kind, i, pattern.fullmatch(question)) for kind, i, pattern in PATTERNS)
    return [Read(kind, i, match.groupdict()) for kind, i, match in found if match]


def oracle(question: str) -> str:
    """The answer."""
    (read,) = readings(question)
    return RULES[read.kind](**read.given)


def listed(x: str) -> list[str]:
    """The words of a list, or of a sentence without its full stop."""
    return re.findall(WORD, x)


def mark(x: str) -> str:
    return ", " if "," in x else " "


def told(x: str, q: str) -> str:
    giver, thing, taker, place = re.fullmatch(r"(\w+) \w+ the (\w+) to (\w+) in the (\w+)\.", x).groups()
    answers = {"Who": giver, "What": f"the {thing}", "Where": f"in the {place}", "To": taker}
    return answers[q.split()[0]]


def is_in(w: str, x: str) -> str:
    return "yes" if w in listed(x) else "no"


RULES = {
    "first": lambda x: listed(x)[0],
    "last": lambda x: listed(x)[-1],
    "nth": lambda x, k: listed(x)[["second", "third", "fourth"].index(k) + 1],
    "longest": lambda x: sorted(listed(x), key=len)[-1],
    "sort": lambda x: mark(x).join(sorted(listed(x))),
    "reverse": lambda x: mark(x).join(listed(x)[::-1]),
    "count": lambda x: str(len(listed(x))),
    "join": lambda x: " and ".join(listed(x)),
    "member": is_in,
    "drop": lambda w, x: mark(x).join(word for word in listed(x) if word != w),
    "copy": lambda x: x,
    "s_first": lambda x: listed(x)[0],
    "s_last": lambda x: listed(x)[-1],
    "s_member": is_in,
    "replace": lambda w, v, x: re.sub(rf"\b{w}\b", v, x),
    "story": told,
    "repeat": lambda w, n: " ".join([w] * (["two", "three", "four", "five"].index(n) + 2)),
    "plural": lambda w: w + "s",
    "opposite": lambda w: OPPOSITE[w],
    "upper": lambda w: w.upper(),
    "larger": lambda a, b: str(max(int(a), int(b))),
    "compare": lambda a, b: "true" if int(a) > int(b) else "false",
    "after": lambda a: str(int(a) + 1),
}
