"""One item of each kind: what fills its phrasing, its one right answer, and the words that were drawn for it."""

from collections.abc import Callable, Sequence

from experiments.data.instructions import words as known
from experiments.data.instructions.phrasings.lists import LISTS
from experiments.data.instructions.pool import STORY, Pool, Sentence, begins_with_a_vowel

Made = tuple[dict[str, object], str, Sequence[str]]


def _of_list(pool: Pool, kind: str) -> Made:
    words, mark = pool.list_of(), pool.separator()
    fill: dict[str, object] = {"x": mark.join(words)}
    if kind == "nth":
        place = pool.rng.randrange(1, min(4, len(words)))
        return {**fill, "k": known.ORDINALS[place - 1]}, words[place], words
    if kind == "member":
        is_there = pool.rng.random() < 0.5
        word = pool.rng.choice(words if is_there else [word for word in pool.words if word not in words])
        return {**fill, "w": word}, _yes(is_there), [*words, word]
    if kind == "drop":
        word = pool.rng.choice(words)
        return {**fill, "w": word}, mark.join(other for other in words if other != word), words
    answers = {
        "first": words[0], "last": words[-1], "longest": max(words, key=len), "count": str(len(words)), "join": " and ".join(words),
        "sort": mark.join(sorted(words)), "reverse": mark.join(reversed(words)),
    }  # fmt: skip
    return fill, answers[kind], words


def _of_sentence(pool: Pool, kind: str) -> Made:
    sentence = pool.sentence()
    answers = {"copy": sentence.text, "s_first": sentence.words[0], "s_last": sentence.words[-1]}
    return {"x": sentence.text}, answers[kind], sentence.content


def _of_member(pool: Pool, kind: str) -> Made:
    """Of the words asked for, those that are there and those that are not are drawn alike."""
    sentence, is_there = pool.sentence(), pool.rng.random() < 0.5
    inner = _inner(sentence if is_there else pool.sentence())
    while not is_there and not (inner := {word: drawn for word, drawn in inner.items() if drawn not in sentence.drawn}):
        inner = _inner(pool.sentence())
    word = pool.rng.choice(list(inner))
    return {"x": sentence.text, "w": word}, _yes(is_there), [*sentence.content, inner[word]]


def _inner(sentence: Sentence) -> dict[str, str]:
    """What was drawn of each word, without glue and without the first word, which has a capital."""
    return {word: drawn for word, drawn in zip(sentence.words[1:], sentence.drawn[1:], strict=True) if drawn}


def _replace(pool: Pool, kind: str) -> Made:
    """One noun by another, of its slot where one fits."""
    sentence = pool.sentence()
    place = pool.rng.choice([i for i, slot in enumerate(sentence.slots) if slot in ("BEING", "THING")])
    old = sentence.words[place]
    fitting = _fitting(pool.slots[sentence.slots[place]], sentence, old) or _fitting(pool.nouns, sentence, old)
    new = pool.rng.choice(fitting)
    changed = sentence._replace(words=(*sentence.words[:place], new, *sentence.words[place + 1 :]))
    return {"x": sentence.text, "w": old, "v": new}, changed.text, [*sentence.content, new]


def _fitting(words: Sequence[str], sentence: Sentence, old: str) -> list[str]:
    """Those not in the sentence before which the article would be as it is."""
    vowel = begins_with_a_vowel(old)
    return [word for word in words if word not in sentence.drawn and begins_with_a_vowel(word) == vowel]


def _repeat(pool: Pool, kind: str) -> Made:
    word, count = pool.rng.choice(pool.words), pool.rng.choice(list(known.COUNTS))
    return {"w": word, "n": known.COUNTS[count]}, " ".join([word] * count), [word]


def _plural(pool: Pool, kind: str) -> Made:
    word = pool.rng.choice(pool.nouns)
    return {"w": word}, f"{word}s", [word]


def _opposite(pool: Pool, kind: str) -> Made:
    pair = pool.rng.sample(pool.rng.choice(pool.opposites), 2)
    return {"w": pair[0]}, pair[1], [" ".join(sorted(pair))]


def _upper(pool: Pool, kind: str) -> Made:
    word = pool.rng.choice([word for word in pool.words if len(word) <= 6])
    return {"w": word}, word.upper(), [word]


def _of_two_numbers(pool: Pool, kind: str) -> Made:
    one, other = pool.pair()
    answer = str(max(one, other)) if kind == "larger" else str(one > other).lower()
    return {"a": one, "b": other}, answer, [str(one), str(other)]


def _after(pool: Pool, kind: str) -> Made:
    number = pool.rng.choice(pool.numbers)
    return {"a": number}, str(number + 1), [str(number)]


def _story(pool: Pool, kind: str) -> Made:
    told = pool.sentence(STORY)
    giver, past, _, thing, _, taker, _, _, place = told.words
    do = known.GIVING[past]
    question, answer = pool.rng.choice((
        (f"Who {past} the {thing}?", giver), (f"What did {giver} {do}?", f"the {thing}"),
        (f"Where did {giver} {do} it?", f"in the {place}"), (f"To whom did {giver} {do} it?", taker),
    ))  # fmt: skip
    return {"x": told.text, "q": question}, answer, told.content


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


MAKERS: dict[str, Callable[[Pool, str], Made]] = {
    **dict.fromkeys(LISTS, _of_list), **dict.fromkeys(("copy", "s_first", "s_last"), _of_sentence), "s_member": _of_member, "replace": _replace,
    "story": _story, "repeat": _repeat, "plural": _plural, "opposite": _opposite, "upper": _upper,
    **dict.fromkeys(("larger", "compare"), _of_two_numbers), "after": _after,
}  # fmt: skip
