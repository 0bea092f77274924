"""Draws following.svg: a kernel and its factors on their way to a product. `python docs/assets/draw_following.py`."""

import pathlib

INK, SOFT, PAPER, BASE, ADAPTER = "#1f2430", "#5b6472", "#fbfbfd", "#dfe4ec", "#ffe2b8"
EDGE = "#c96a00"  # of what trains
STAGES = (  # what the operation is, then the shapes after it: kernel, a, b
    ("in the tree", "[N, D, H]", "[1, D, 1, R]", "[N, 1, H, R]"),
    ("transpose", "[D, N, H]", "[D, 1, 1, R]", "[1, N, H, R]"),
    ("reshape", "[D, NH]", "[D, 1, R]", "[1, NH, R]"),
)
WIDTH, HEIGHT, LEFT, STEP, BOX = 960, 400, 24, 200, 138
ROWS = {"q": 76, "a": 176, "b": 246}  # y of the upper edge
SIZES = {"q": 56, "a": 46, "b": 46}


def text(x: float, y: float, words: str, *, size: int = 15, fill: str = INK, anchor: str = "middle") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" text-anchor="{anchor}">{words}</text>'


def box(x: float, y: float, width: float, height: float, *, trains: bool) -> str:
    fill, edge = (ADAPTER, EDGE) if trains else (BASE, SOFT)
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{fill}" stroke="{edge}" stroke-width="1.5"/>'


def arrow(points: list[tuple[float, float]], *, trains: bool = False) -> str:
    path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
    kind = "trains" if trains else "base"
    edge = EDGE if trains else SOFT
    return f'<path d="{path}" fill="none" stroke="{edge}" stroke-width="1.8" marker-end="url(#{kind})"/>'


def stage(number: int, words: str, shapes: dict[str, str]) -> list[str]:
    """One column: the kernel and its two factors as they are then."""
    x = LEFT + number * STEP
    drawn = [text(x + BOX / 2, 50, words, fill=SOFT)]
    for name, shape in shapes.items():
        y, height, trains = ROWS[name], SIZES[name], name != "q"
        drawn.append(box(x, y, BOX, height, trains=trains))
        drawn.append(text(x + BOX / 2, y + height / 2 + 5, f"{name} {shape}"))
        if number:
            drawn.append(arrow([(x - STEP + BOX, y + height / 2), (x - 4, y + height / 2)], trains=trains))
    return drawn


def product() -> list[str]:
    """The last columns: x meets the kernel and the factors, and the two results are added."""
    begins, x, y = LEFT + 2 * STEP + BOX, LEFT + 3 * STEP, LEFT + 3 * STEP + 236
    base, side = ROWS["q"] + SIZES["q"] / 2, (ROWS["a"] + ROWS["b"] + SIZES["b"]) / 2
    return [
        text(x + 62, 50, "the product", fill=SOFT),
        box(x, ROWS["q"], 124, SIZES["q"], trains=False),
        text(x + 62, base + 5, "x W"),
        box(x, side - 28, 124, 56, trains=True),
        text(x + 62, side + 5, "scale (x a) b"),
        arrow([(begins, base), (x - 4, base)]),
        *(arrow([(begins, ROWS[n] + 23), (x - 4, side + d)], trains=True) for n, d in (("a", -10), ("b", 10))),
        f'<circle cx="{y}" cy="{base}" r="16" fill="{PAPER}" stroke="{SOFT}" stroke-width="1.5"/>',
        text(y, base + 6, "+", size=20),
        arrow([(x + 124, base), (y - 20, base)]),
        arrow([(x + 124, side), (y, side), (y, base + 20)], trains=True),
        arrow([(y + 16, base), (y + 58, base)]),
        text(y + 74, base + 5, "y"),
    ]


def legend() -> list[str]:
    y = 336
    return [
        box(LEFT, y, 22, 22, trains=False),
        text(LEFT + 32, y + 16, "frozen: runs as it was, and gets no gradient", fill=SOFT, anchor="start"),
        box(LEFT + 400, y, 22, 22, trains=True),
        text(LEFT + 432, y + 16, "trains: every factor takes the kernel's own way", fill=SOFT, anchor="start"),
        text(LEFT, 384, "q has the roles o i o: D is summed over, N and H are free; R is the rank", fill=SOFT, anchor="start"),
    ]  # fmt: skip


def marker(name: str, colour: str) -> str:
    head = f'<path d="M0 0 L10 5 L0 10 z" fill="{colour}"/>'
    return f'<marker id="{name}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" markerHeight="7" orient="auto">{head}</marker>'


def drawing() -> str:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="Roboto, Helvetica, Arial, sans-serif" role="img">',
        "<title>A kernel, its factors beside it, and the product that gets a side path</title>",
        f"<defs>{marker('base', SOFT)}{marker('trains', EDGE)}</defs>",
        # A ground of its own, so that it reads on a light page and on a dark one.
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="{PAPER}"/>',
    ]
    for number, (words, *shapes) in enumerate(STAGES):
        parts += stage(number, words, dict(zip("qab", shapes, strict=True)))
    return "\n".join([*parts, *product(), *legend(), "</svg>"]) + "\n"


if __name__ == "__main__":
    (pathlib.Path(__file__).parent / "following.svg").write_text(drawing())
