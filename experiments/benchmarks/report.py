"""What was measured, as text and as Markdown: what is compared, as peer / ours, with its spread, n, floor, and whether the work is equal."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.benchmarks import pairs
from experiments.benchmarks.pairs import Pair
from experiments.common import made

NOT_MEASURED = "no interpreter in which torch and peft work (pip install -e '.[interop]', or --peft_python)"
LEGEND = """\
Ratios are peer / ours: above 1 ours takes less. Beside each: the peer's median with quartiles, and ours; n timings of each, taken in turns.
"Times the floor" is how many times as long as ours would take for its matrix products alone, at the rate of a large one, or for reading its weights
where that takes longer: peer / ours."""
WORTH_A_COLUMN = (
    "flops",
    "optimizer_bytes",
    "temporary_bytes",
    "peak_bytes",
    "peak_rss_bytes",
    "moved_bytes",
    "tokens_per_s",
    "gflops_per_s",
    "share_of_matmul_rate",
    "times_the_floor",
    "with_compilation_s",
    "examples_per_s",
    "padded_tokens_per_example",
)
KEYS = {
    "median_ms": "time",
    "flops": "FLOPs",
    "optimizer_bytes": "optimiser state",
    "temporary_bytes": "temporary memory",
    "peak_bytes": "peak memory of the device",
    "peak_rss_bytes": "peak memory of a process",
    "with_compilation_s": "time with compilation",
    "padded_tokens_per_example": "tokens an example",
}
ONCE = ("with_compilation_s", "peak_rss_bytes", "peak_bytes")  # measured once
PREFIXES = (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))


class Compared(NamedTuple):
    """A line of the table, in words."""

    what: str
    ratio: str
    peer: str
    ours: str
    n: str
    floor: str
    work: str


def table(results: Mapping[str, Any]) -> str:
    """Of each part what is compared; a part is None where PEFT was absent or failed."""
    lines = [LEGEND]
    for title, result in pairs.completed(results).items():
        lines += ["", title]
        lines += [f"  not measured: {NOT_MEASURED}"] if result is None else part(result, pairs.of(title, result))
    return "\n".join(lines)


def part(result: Mapping[str, Any], found: Sequence[Pair]) -> list[str]:
    """The lines of a part, under each kind of work; its rows alone where nothing is compared."""
    if not found:
        return rows(result["rows"])
    told = compared(result["rows"], found)
    width = max(len(one.what) for one in told)
    lines = []
    for work, group in itertools.groupby(told, key=lambda one: one.work):
        lines += [f"  work: {work}", *(f"    {_line(one, width)}" for one in group)]
    return lines + [f"  {note}" for note in notes(result)]


def _line(one: Compared, width: int) -> str:
    more = (one.n and f", n = {one.n}") + (one.floor and f"; {one.floor} times the floor")
    return f"{one.what.ljust(width)}  {one.ratio:>5}  {one.peer} / {one.ours}{more}"


def markdown(results: Mapping[str, Any], titles: Sequence[str]) -> str:
    """A table for each of these parts."""
    whole, found = pairs.completed(results), []
    for title in titles:
        result = whole[title]
        lines = [list(one) for one in compared(result["rows"], pairs.of(title, result))]
        head = ["compared", "peer / ours", "peer", "ours", "n", "times the floor, peer / ours", "work"]
        found += [f"**{title}**", made.table(head, lines), *notes(result)]
    return "\n\n".join(found)


def compared(rows: pairs.Rows, found: Sequence[Pair]) -> list[Compared]:
    """The pairs with their numbers."""
    return [_compared(rows[pair.peer], rows[pair.ours], pair) for pair in found]


def _compared(peer: Mapping[str, float], ours: Mapping[str, float], pair: Pair) -> Compared:
    is_time = pair.key == "median_ms"
    return Compared(
        f"{pair.what or f'{pair.peer} / {pair.ours}'}, {KEYS[pair.key]}",
        ratio(peer[pair.key] / ours[pair.key]),
        _amount(peer, pair.key),
        _amount(ours, pair.key),
        _n(peer, ours) if is_time else "1" if pair.key in ONCE else "",
        _floors(peer, ours) if is_time else "",
        pair.work,
    )


def ratio(value: float) -> str:
    """Two decimals, or two digits where those would be zeros; none from a hundred on."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.01 else f"{value:.2g}"


def _n(peer: Mapping[str, float], ours: Mapping[str, float]) -> str:
    known = dict.fromkeys(str(row["n"]) for row in (peer, ours) if "n" in row)
    return " and ".join(known)


def _floors(*sides: Mapping[str, float]) -> str:
    if not all("times_the_floor" in side for side in sides):
        return ""
    return " / ".join(f"{side['times_the_floor']:.1f}" for side in sides)


def _amount(row: Mapping[str, float], key: str) -> str:
    if key == "median_ms":
        return time(row)
    if key == "with_compilation_s":
        return f"{digits(row[key])} s"
    if key == "padded_tokens_per_example":
        return digits(row[key])
    return scaled(row[key], "FLOP" if key == "flops" else "B")


def time(row: Mapping[str, float]) -> str:
    """The median with its quartiles; of an estimate the median alone."""
    if "n" not in row:
        return f"{digits(row['median_ms'])} ms, an estimate"
    return f"{digits(row['median_ms'])} ms [{digits(row['quartile_low_ms'])}, {digits(row['quartile_high_ms'])}]"


def scaled(value: float, unit: str) -> str:
    """Three digits, and a prefix.

    >>> scaled(4_539_000, "B"), scaled(12.0, "B")
    ('4.54 MB', '12.0 B')
    """
    prefix, factor = next((one for one in PREFIXES if value >= one[1]), PREFIXES[-1])
    return f"{digits(value / factor)} {prefix}{unit}"


def digits(value: float) -> str:
    """Three of them, and no power of ten.

    >>> digits(0.68312), digits(1424.06), digits(20.7), digits(999.6)
    ('0.683', '1,424', '20.7', '1,000')
    """
    if value <= 0:
        return f"{value:g}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}" if value < 999.5 else f"{value:,.0f}"


def notes(result: Mapping[str, Any]) -> list[str]:
    """What a quantised base's kernels take, and how far off they are."""
    given, said = result.get("ratio", {}), []
    for name, share in given.items():
        if name.startswith("bytes of the kernels, "):
            method = name.removeprefix("bytes of the kernels, ").removesuffix(" / float32")
            off = given[f"relative error of the kernels, {method}"]
            said.append(f"Kernels in float32 / in {method}, bytes: {ratio(1 / share)}; {method} is off by {off:.1%}.")
    return said


def rows(found: pairs.Rows) -> list[str]:
    """All that was measured of each row, a line each."""
    width = max([12, *map(len, found)])
    return [_row(name.ljust(width), row) for name, row in found.items()]


def _row(name: str, row: Mapping[str, Any]) -> str:
    more = [f"{key} {row[key]:,.4g}" for key in WORTH_A_COLUMN if key in row]
    timing = f"{row['median_ms']:.3f} ms [{row['quartile_low_ms']:.3f}, {row['quartile_high_ms']:.3f}], n = {row['n']}"
    return f"  {name} {timing}  {'; '.join(more)}"
