"""Table and figures of the linear teacher, from its summary."""

from typing import Any

from etils import epath

from experiments.common.statistics import text
from experiments.linear import deep_figures, early_figures, input_figures

LINE = "{:<12} {:<12} {:>4} {:>9} {:>28} {:>22} {:>10} {:>9}  {}"
EARLY_LINE = "{:<12} {:>4} {:>5} {:>22} {:>26} {:>9}  {}"
DEEP_LINE = "{:<11} {:>2} {:>3} {:>4} {:>9} {:>28} {:>12} {:>11}  {}"
TOLD_STEPS = (5, 20, 50, 100)


def table(summary: dict[str, Any]) -> str:
    """Each part: error against its bound; at the first steps, with one rate and with each one's own; several layers."""
    lines = [_intro(summary), *_inputs(summary["rows"])]
    if summary["early"]:
        lines += ["", *_early(summary["early"])]
    if summary["deep"]:
        lines += ["", *_deep(summary["deep"])]
    return "\n".join(lines)


def draw(summary: dict[str, Any], folder: epath.Path) -> list[epath.Path]:
    """error_vs_rank, inputs (S2.1, S2.2); first_steps (S2.3); several_layers (S2.8): of the parts that were measured."""
    paths = [input_figures.error_vs_rank(summary, folder / "error_vs_rank.png")]
    if len({row["inputs"] for row in summary["rows"]}) > 1:
        paths.append(input_figures.inputs(summary, folder / "inputs.png"))
    if summary["early"]:
        paths.append(early_figures.first_steps(summary, folder / "first_steps.png"))
    if summary["deep"]:
        paths.append(deep_figures.several_layers(summary, folder / "several_layers.png"))
    return paths


def _intro(summary: dict[str, Any]) -> str:
    return (
        f"After {summary['steps']} steps at rate {summary['shared_rate']:g}: mean [95 % interval] over seeds. 'matrix' is the squared error of "
        "the matrix, that on new white inputs;\n'best' is what the least training error of least norm has there."
    )


def _inputs(rows: list[dict[str, Any]]) -> list[str]:
    lines = [LINE.format("inputs", "rule", "rank", "bound", "error / bound", "matrix", "best", "E.-Y.", "n")]
    for row in rows:
        lines.append(
            LINE.format(
                row["inputs"],
                row["rule"],
                row["rank"],
                f"{row['bound']['mean']:.4f}",
                text(row["ratio"], 5),
                text(row["matrix_error"], 3),
                f"{row['best_matrix_error']['mean']:.4f}",
                f"{row['eckart_young']['mean']:.4f}",
                row["error"]["n"],
            )
        )
    return lines


def _early(rows: list[dict[str, Any]]) -> list[str]:
    lines = [EARLY_LINE.format("rule", "rank", "step", "error, one rate", "error, its own best rate", "rate", "n")]
    of = {(row["rule"], row["rank"], row["step"], row["rate"]): row for row in rows}
    for (rule, rank, step, rate), row in of.items():
        if rate == "shared" or step not in TOLD_STEPS:
            continue
        shared = of[rule, rank, step, "shared"]
        edge = " edge" if row["at_edge"] else ""
        lines.append(
            EARLY_LINE.format(
                rule, rank, step, text(shared["error"]), text(row["error"]), f"{row['learning_rate']:.3g}", f"{row['error']['n']}{edge}",
            )
        )  # fmt: skip
    return lines


def _deep(rows: list[dict[str, Any]]) -> list[str]:
    lines = [DEEP_LINE.format("layers", "L", "R", "R L", "bound", "error / bound", "constructed", "condition", "n")]
    for row in rows:
        lines.append(
            DEEP_LINE.format(
                row["layers"],
                row["depth"],
                row["rank"],
                row["of"],
                f"{row['bound']['mean']:.4f}",
                text(row["ratio"], 4),
                f"{row['constructed']['mean']:.6f}",
                f"{row['condition']['mean']:.3g}",
                row["error"]["n"],
            )
        )
    return lines
