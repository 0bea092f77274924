"""What a row of the summary says, from error counts: seeds apart, at the end and at equal gain. Nothing here imports jax.

Letters: K measurements (the first before training), M seeds, C classes.
"""

from typing import Any

import numpy as np

from experiments.common.curves import value_at
from experiments.common.statistics import estimate

HALF = 0.5


def at_half(nines: np.ndarray, added: np.ndarray, batches: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    """Where half of the 9s are mended: errors added elsewhere and batches, a number or None of each seed; arrays [K, M], batches [K].

    A run that stops early, at the measurement `chosen` [M], does not get to what comes after.
    """
    until = [(m, slice(0, end + 1), HALF * nines[0, m]) for m, end in enumerate(chosen)]
    found = [value_at(nines[:, m][kept], added[:, m][kept], target) for m, kept, target in until]
    after = [value_at(nines[:, m][kept], batches[kept], target) for m, kept, target in until]
    reached = [value for value in found if value is not None]
    return {
        "added_by_seed": found,
        "batches_by_seed": after,
        "reached": len(reached),
        "of": len(found),
        "added": estimate(reached) if reached else None,
    }


def at_dose(row: dict[str, Any], study: dict[str, Any]) -> dict[str, list[float]]:
    """Errors added by a row and by the study's setting at the largest gain that both have: a number of each seed.

    That gain is where the one that mended fewer 9s ended; each counts when it first has it, interpolated. Without any gain nothing is added.
    """
    found = {"wrong_at_dose": [], "added_at_dose": [], "study_added_at_dose": []}
    for m in range(len(row["by_seed"]["digit_after"])):
        target = max(one["by_seed"]["digit_after"][m] for one in (row, study))
        added = [
            value_at(*(np.asarray(one["curves"][name][m]) for name in ("wrong", "added")), target)
            for one in (row, study)
        ]
        for name, value in zip(found, (target, *added), strict=True):
            found[name].append(value)
    return found


def row(
    test: np.ndarray, chosen: np.ndarray, batches: np.ndarray, *, digit: int, images: int, study: dict[str, Any] | None
) -> dict[str, Any]:
    """The measured part of a row.

    Args:
      test: errors [K, M, C] on the test set.
      chosen: [M] the measurement that counts as the end, the last but for early stopping.
      batches: [K] trained before each measurement.
      images: in the test set.
      study: the row of the study's setting; None for itself.
    """
    before, after = test[0], test[chosen, np.arange(test.shape[1])]
    wrong = test[:, :, digit]
    added = test.sum(axis=2) - wrong
    added = added - added[0]
    by_seed = {
        "accuracy_before": 1 - before.sum(axis=1) / images,
        "accuracy_after": 1 - after.sum(axis=1) / images,
        "digit_before": before[:, digit],
        "digit_after": after[:, digit],
        "others_added": np.delete(after - before, digit, axis=1).sum(axis=1),
        "net_errors_added": (after - before).sum(axis=1),
    }
    found = {
        "by_seed": {name: values.tolist() for name, values in by_seed.items()},
        "before_by_seed": before.tolist(),
        "after_by_seed": after.tolist(),
        "before": [estimate(errors) for errors in before.T],
        "after": [estimate(errors) for errors in after.T],
        "at_half": at_half(wrong, added, batches, chosen),
        "curve_batches": batches.tolist(),
        "curves": {"wrong": wrong.T.tolist(), "added": added.T.tolist()},  # [M, K]
    }
    found["by_seed"] |= at_dose(found, study or found)
    return found | {name: estimate(values) for name, values in found["by_seed"].items()}


def classes(test: np.ndarray) -> list[list[dict[str, Any]]]:
    """Errors of each class at each measurement, [K, C] estimates over seeds."""
    return [[estimate(errors) for errors in measured.T] for measured in test]
