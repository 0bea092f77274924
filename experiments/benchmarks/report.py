"""What was measured, as text."""

from typing import Any

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
NOT_MEASURED = "no interpreter in which torch and peft work (pip install -e '.[interop]', or --peft_python)"


def table(results: dict[str, Any]) -> str:
    """Of each part, medians with quartiles, then ratios; a part is None where PEFT was absent or failed."""
    lines = []
    for title, result in results.items():
        lines.append(title)
        if result is None:
            lines.append(f"  not measured: {NOT_MEASURED}")
            continue
        width = max([12, *map(len, result["rows"])])
        lines += [_line(name.ljust(width), row) for name, row in result["rows"].items()]
        lines += [f"  {name}: {_ratio(value)}" for name, value in result["ratio"].items()]
    return "\n".join(lines)


def _line(name: str, row: dict[str, Any]) -> str:
    more = [f"{key} {row[key]:,.4g}" for key in WORTH_A_COLUMN if key in row]
    timing = f"{row['median_ms']:.3f} ms [{row['quartile_low_ms']:.3f}, {row['quartile_high_ms']:.3f}], n = {row['n']}"
    return f"  {name} {timing}  {'; '.join(more)}"


def _ratio(value: float) -> str:
    """Two decimals, or two digits where those would be zeros."""
    return f"{value:.2f}" if value >= 0.01 else f"{value:.2g}"
