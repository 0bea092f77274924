"""A user's mistake: one sentence, no traceback."""

LONGEST = 1500  # characters


class UserError(Exception):
    """Shown as it is; the program ends with status 2."""

    def __str__(self) -> str:
        return sentence(super().__str__())


def sentence(text: str, longest: int = LONGEST) -> str:
    """A text on one line, which a terminal only shows, whatever names and values it quotes; the midst of what is too long is left out.

    >>> print(sentence("one\\ntwo"))
    one\\ntwo
    """
    text = text if len(text) <= 4 * longest else f"{text[: 2 * longest]}{text[-2 * longest :]}"
    told = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return told if len(told) <= longest else f"{told[: longest // 2]} ... {told[-longest // 2 :]}"
