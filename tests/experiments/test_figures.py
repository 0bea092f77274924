"""Do tables and figures come out of a summary alone, whatever n is, and without JAX?"""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from experiments.common.statistics import estimate
from experiments.digit9 import figures as digit9
from experiments.linear import figures as linear
from experiments.new_digits import figures as new_digits
from experiments.rank import figures as rank

ROOT = pathlib.Path(__file__).parents[2]
PURE = (
    "experiments/ledger/*.py",
    "experiments/*/*figures.py",
    "experiments/*/*claims.py",
    "experiments/common/figures/*.py",
)
N = (1, 3)


def e(mean: float, n: int):
    return estimate(mean + 0.01 * np.arange(n))


def rank_summary(n: int) -> dict:
    def row(regime, rank, parameters, errors=(20.0, None, 12.0)):
        scores = {name: e(0.9, n) for name in ("accuracy", "accuracy_old", "accuracy_new")}
        by_seed = {"accuracy": [0.9 + 0.01 * i for i in range(n)]}
        rates = dict(zip(("0.0001", "0.01", "0.001"), errors, strict=True))
        chosen = {"learning_rate": 1e-3, "rate_at_edge": regime == "full", "validation_errors_by_rate": rates}
        return {
            "regime": regime,
            "rank": rank,
            "parameters": parameters,
            "share": 0.1,
            "by_seed": by_seed,
            **chosen,
            **scores,
        }

    rows = [row("head only", None, 1290), row("LoRA", 1, 2586), row("LoRA", 4, 10344), row("full", None, 567434)]
    classes = [str(digit) for digit in range(10)]
    data = {
        "source": "5,000 images",
        "is_full_mnist": False,
        "classes": classes,
        "old": classes[:8],
        "new": classes[8:],
    }
    return {"rows": rows, "base": rows[0], "data": {**data, "train": 4000, "test": 1000}, "settings": {"steps": 300}}


def linear_summary(n: int) -> dict:
    def row(of: dict, **means) -> dict:
        by_seed = {name: (mean + 0.01 * np.arange(n)).tolist() for name, mean in means.items()}
        return {**of, **{name: estimate(values) for name, values in by_seed.items()}, "by_seed": by_seed}

    rules, names = (
        ("alpha = c r", "alpha fixed"),
        ("error", "bound", "matrix_error", "best_matrix_error", "eckart_young"),
    )
    return {
        "rows": [
            row({"inputs": kind, "rule": rule, "rank": r}, ratio=1.001, **dict.fromkeys(names, 1 / r))
            for kind, rule in (("white", rules[0]), ("white", rules[1]), ("few", rules[0])) for r in (1, 4)
        ],
        "early": [
            row({"rule": rule, "rank": r, "step": step, "rate": rate, "learning_rate": 0.02, "at_edge": r == 4}, error=2 / step, ratio=2.0)
            for rule in rules for r in (1, 4) for step in (5, 100) for rate in ("shared", "own")
        ],
        "deep": [
            row({"layers": kind, "depth": 2, "rank": r, "of": 2 * r}, error=1 / r, bound=1 / r, ratio=1.25, constructed=1.0, condition=5.0)
            for kind in ("orthogonal", "Gaussian") for r in (1, 4)
        ],
        "steps": 20, "shared_rate": 0.01,
    }  # fmt: skip


def digit9_summary(n: int) -> dict:
    """The study, ranks at two steps, full tuning that never mends half in one seed, bias-only tuning that never does, a mitigation."""

    def row(name, kind, end, rank=None, step=None, missed=0):
        errors = np.tile(10 + np.arange(10), (n, 1)) + np.arange(n)[:, None]
        classes = [estimate(column) for column in errors.T]
        wrong, added = [[20, 12, end + m % 2] for m in range(n)], [[0, 10 + m, 40] for m in range(n)]
        half = [None if m < missed else 20.0 + m for m in range(n)]
        by_seed = {
            "accuracy_before": [0.96] * n, "accuracy_after": [0.91 + 0.01 * m for m in range(n)], "digit_before": [20] * n,
            "digit_after": [end] * n, "others_added": [40 + m for m in range(n)], "net_errors_added": [30] * n,
            "wrong_at_dose": [end] * n, "added_at_dose": [20 + m for m in range(n)], "study_added_at_dose": [40 - m for m in range(n)],
        }  # fmt: skip
        return {
            "name": name, "kind": kind, "rank": rank, "alpha": None, "step": step, "targets": None, "learning_rate": 1e-3, "parameters": 6794,
            "before": classes, "after": classes, "before_by_seed": errors.tolist(), "after_by_seed": (errors + 1).tolist(),
            "by_seed": by_seed, **{key: estimate(values) for key, values in by_seed.items()},
            "at_half": {
                "added_by_seed": half, "reached": max(0, n - missed), "of": n,
                "added": estimate([h for h in half if h is not None]) if n > missed else None,
            },
            "curve_batches": [0, 5, 10], "curve": [classes] * 3, "curves": {"wrong": wrong, "added": added},
        }  # fmt: skip

    rows = [
        row("the study", "study", 4, 1, "own"), row("r=16", "rank", 6, 16, "own"), row("r=1, larger", "rank", 2, 1, "larger"),
        row("full", "suspect", 5, missed=1), row("bias", "suspect", 15, missed=n), row("replay", "mitigation", 8),
    ]  # fmt: skip
    return {"rows": rows, "settings": {"study": "s1", "digit": 9, "batches": 10}}


def new_digits_summary(n: int) -> dict:
    def row(name, kind, replay):
        groups = {group: e(0.9, n) for group in ("old", "new", "overall")}
        recipe = {"replay": replay, "epochs": 5, "learning_rate": 1e-3}
        return {"name": name, "kind": kind, "parameters": 41376, "recipe": recipe, **groups}

    def tried(replay, keeps):
        shares = {group: [[0.1, 0.2], [0.96, 0.98], [0.97, 0.99]] for group in ("old", "new", "overall")}
        return {"recipe": {"replay": replay, "keeps": keeps, "epochs": 2, "learning_rate": 1e-3}, "validation": shares}

    def curve(name):
        return {
            "name": name,
            "batches": [0, 1, 2],
            **{group: [[0.5] * n, [0.6] * n, [0.9] * n] for group in ("old", "new", "overall")},
        }

    names = ("alone", "full alone", "LoRA, replay 0.8, 2 epochs", "full, replay 0.8, 2 epochs")
    rows = [
        row(name, kind, 0.8)
        for name, kind in zip(names, ("study", "full alone", "least", "full, replayed"), strict=True)
    ]
    oracle = {"name": "by an oracle", "kind": "oracle", **{group: e(0.98, n) for group in ("old", "new", "overall")}}
    return {
        "base": {group: e(0.9, n) for group in ("old", "new", "overall")} | {"parameters": 567434},
        "rows": rows,
        "modular": [oracle],
        "tuning": {
            "rates": {"LoRA": {"rates": [3e-4, 1e-3], "best": 1e-3, "at_edge": True}},
            "grid": [tried(0.8, False), tried(1.6, True)],
        },
        "first_epoch": [curve(name) for name in names],
        "bars": {"old": 0.98, "new": 0.95, "overall": 0.98},
        "chosen": names[2],
        "settings": {"new_digits": [2, 9], "held_out": 500, "batch_size": 64},
    }


CASES = {
    "rank": (rank, rank_summary, ["accuracy_vs_rank", "rates"]),
    "linear": (linear, linear_summary, ["error_vs_rank", "inputs", "first_steps", "several_layers"]),
    "digit9": (
        digit9,
        digit9_summary,
        [
            "s1_errors_by_digit",
            "s1_errors_during_training",
            "s1_damage_at_equal_gain",
            "s1_damage_by_rank",
            "s1_mitigations_at_equal_gain",
        ],
    ),
    "new_digits": (new_digits, new_digits_summary, ["what_it_takes", "forgetting_in_the_first_epoch", "recipes"]),
}  # fmt: skip


def assert_is_a_picture(path) -> None:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    assert min(pixels.shape) > 200 and 0 < (pixels < 128).mean() < 0.5


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n", N)
def test_figures_are_drawn(case, n, tmp_path):
    module, summary, names = CASES[case]
    paths = module.draw(summary(n), tmp_path)
    assert [path.name for path in paths] == [f"{name}.png" for name in names]
    for path in paths:
        assert_is_a_picture(path)


def test_seeds_that_agree_bit_for_bit_have_no_negative_range(tmp_path):
    """The mean of three times 0.7 lies below it."""
    summary = linear_summary(3)
    for row in summary["deep"][1:]:
        row["by_seed"]["ratio"] = [1.7] * 3
    assert (tmp_path / "several_layers.png") in linear.draw(summary, tmp_path)


def test_equal_summaries_give_equal_files(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        rank.draw(rank_summary(3), folder)
    first, second = ((folder / "accuracy_vs_rank.png").read_bytes() for folder in folders)
    assert first == second


@pytest.mark.parametrize(
    ("case", "parts"),
    [
        ("rank", ["head only 0.001 1,290 10.00% 91.00 [88.52, 93.48] % 0.00 [0.00, 0.00] 91.00 91.00 3", "LoRA 4 0.001 10,344", "full 0.001* 567,434",
                   "bases (0-7 only): 91.00 %"]),
        ("linear", ["white alpha fixed 4 0.2600 1.01100 [0.98616, 1.03584] 0.260", "fixed 4 5 0.410 [0.385, 0.435] 0.410 [0.385, 0.435] 0.02 3 edge",
                    "Gaussian 2 4 8 0.2600 1.2600 [1.2352, 1.2848] 1.010000 5.01 3"]),
        ("digit9", ["wrong on 9", "the study 6,794 92.00 [89.52, 94.48]", "full 11.0 12.0 13.0", "(2 of 3 seeds)", "reached by 0 of 3"]),
        ("new_digits", ["digits 0,1,3,4,5,6,7,8", "digits 2,9", "<- chosen",
                         "rate of LoRA, of 0.0003, 0.001: 0.001, at the edge of what was tried", "by an oracle",
                         "98.00 after 2 of 2 epochs; passes", "replay 1.6 the same images"]),
    ],
)  # fmt: skip
def test_tables_say_what_the_summary_says(case, parts):
    module, summary, _ = CASES[case]
    table = " ".join(module.table(summary(3)).split())
    for part in parts:
        assert part in table
    assert "None" not in module.table(summary(1))


def test_the_picture_of_predictions(tmp_path):
    probabilities = np.full((7, 10), 0.05)
    probabilities[:, 3] = 0.55
    result = {
        "images": np.full((7, 28, 28), 200, np.uint8),
        "probabilities": {"on": probabilities, "off": probabilities},
    }
    assert_is_a_picture(new_digits.predictions(result, tmp_path / "predictions.png"))


def test_readers_of_records_do_not_import_jax():
    """A summary can be read, drawn and judged on a machine that has no JAX."""
    paths = [path.relative_to(ROOT) for kind in PURE for path in ROOT.glob(kind)]
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]
    assert {"experiments.new_digits.claims", "experiments.rank.figures", "experiments.ledger.table"} <= set(names)
    program = f"""
import importlib, sys
for name in {names!r}:
    importlib.import_module(name)
print([name for name in sys.modules if name in ("jax", "jaxlib", "flax", "lora_jax")])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
