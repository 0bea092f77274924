"""Anybody's arrays for the rank sweep, mine.npz: x [N, ...] and y [N], and x_test, y_test where there is a test set.

Letters: N examples, D features.
"""

import hashlib
import io
import zipfile
from collections.abc import Sequence

import numpy as np
from etils import epath

from experiments.common.errors import UserError
from experiments.data.mnist import Split
from experiments.rank.task import Task, of_classes
from lora_jax.errors import first_line

NAMES = ("x", "y", "x_test", "y_test")
TEST_SHARE, LEAST = 0.2, 10  # of each class, where there is no test set; training examples of a class
KINDS = {"U": "strings", "S": "strings", "i": "integers", "u": "integers"}


def read(path: str, old: Sequence[str] | None = None, new: Sequence[str] | None = None) -> Task:
    """The task that a file and two choices of classes make.

    Tables [N, D] are standardised column by column, and images [N, ...] as a whole, by the training examples; an example is then flattened. Where
    the file has no test set, a fifth of each class is one, the same in every run.

    Raises:
      UserError: for a file that is missing or damaged, or arrays that cannot be learned from, by one sentence that says which.
    """
    found = _arrays(path)
    x, y = _examples(path, found, "x", "y")
    if ("x_test" in found) != ("y_test" in found):
        raise UserError(f"--data={path}: it has one of x_test and y_test; give both, or neither.")
    if "x_test" in found:
        x_test, y_test = _examples(path, found, "x_test", "y_test")
        if x_test.shape[1:] != x.shape[1:]:
            raise UserError(
                f"--data={path}: an example of x_test is {list(x_test.shape[1:])} and one of x is {list(x.shape[1:])}; they must be alike."
            )
    else:
        (x, y), (x_test, y_test) = _split(x, y)
    classes = _classes(path, y, y_test)
    if x.min() == x.max():
        raise UserError(f"--data={path}: all numbers of x are {x.min():g}; there is nothing to learn from.")
    x, x_test = _standardised(x, x_test)
    splits = (Split(part, _places(classes, labels)) for part, labels in ((x, y), (x_test, y_test)))
    about = {"source": epath.Path(path).name, "is_full_mnist": False}
    return of_classes(*splits, classes, old, new, about, _digest(found))


def _arrays(path: str) -> dict[str, np.ndarray]:
    """The arrays of the file that have a name of ours."""
    file = epath.Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"--data={path}: there is no such file.")
    content = io.BytesIO(file.read_bytes())
    if not zipfile.is_zipfile(content):
        raise UserError(f"--data={path}: it is no .npz file; write one with numpy.savez(path, x=x, y=y).")
    content.seek(0)
    try:
        with np.load(content, allow_pickle=False) as found:
            arrays = {name: found[name] for name in NAMES if name in found}
    except Exception as error:  # zipfile, zlib and numpy raise many kinds; each means that the file cannot be read
        if "allow_pickle" in str(error):
            raise UserError(
                f"--data={path}: it holds pickled objects, which are not read; save x as numbers, y as integers or strings."
            ) from error
        raise UserError(f"--data={path} cannot be read ({type(error).__name__}: {first_line(error)}).") from error
    for name in ("x", "y"):
        if name not in arrays:
            raise UserError(
                f"--data={path}: there is no array {name}; it takes x and y, and may have x_test and y_test."
            )
    return arrays


def _examples(path: str, found: dict[str, np.ndarray], x_name: str, y_name: str) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [N, ...], text [N]) of one set."""
    x, y = found[x_name], found[y_name]
    if x.dtype.kind not in "biuf" or x.ndim < 2 or not x.size:
        raise UserError(f"--data={path}: {x_name} is {_shown(x)}; expected numbers [N, ...], one example a row.")
    if y.dtype.kind not in KINDS or y.shape != (len(x),):
        raise UserError(
            f"--data={path}: {y_name} is {_shown(y)}; expected {len(x):,} integers or strings, a class for each example of {x_name}."
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite there
        x = x.astype(np.float32)
    wrong = np.argwhere(~np.isfinite(x))
    if len(wrong):
        raise UserError(f"--data={path}: {x_name}{wrong[0].tolist()} is {x[tuple(wrong[0])]}; expected finite numbers.")
    return x, y.astype("U") if y.dtype.kind != "S" else np.char.decode(y, "utf-8", "replace")


def _shown(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _split(x: np.ndarray, y: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(training, test), the test set a fifth of each class."""
    test, rng = np.zeros(len(y), bool), np.random.default_rng(0)
    for name in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == name))
        test[rows[: round(TEST_SHARE * len(rows))]] = True
    return (x[~test], y[~test]), (x[test], y[test])


def _classes(path: str, y: np.ndarray, y_test: np.ndarray) -> list[str]:
    """Their names, integers by size and others by name."""
    names, counts = np.unique(y, return_counts=True)
    if len(names) < 2:
        raise UserError(f"--data={path}: y has one class, {str(names[0])!r}; expected two or more.")
    for name, count in zip(names, counts, strict=True):
        in_test = int((y_test == name).sum())
        if count < LEAST or not in_test:
            raise UserError(
                f"--data={path}: class {str(name)!r} has {count} training and {in_test} test examples; expected {LEAST} and 1 at least."
            )
    strange = sorted(set(y_test.tolist()) - set(names.tolist()))
    if strange:
        raise UserError(f"--data={path}: y_test has a class {strange[0]!r} that y has not.")
    return sorted(names.tolist(), key=lambda name: (0, int(name), "") if _is_integer(name) else (1, 0, name))


def _is_integer(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def _places(classes: list[str], y: np.ndarray) -> np.ndarray:
    """int32 [N], the place of each label in `classes`."""
    order = np.argsort(classes)
    return order[np.searchsorted(np.asarray(classes)[order], y)].astype(np.int32)


def _standardised(x: np.ndarray, x_test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float32 [N, D]; what never varies in training becomes 0."""
    axes = 0 if x.ndim == 2 else None
    mean, deviation = x.mean(axes, dtype=np.float64), x.std(axes, dtype=np.float64)
    factor = np.where(deviation > 0, 1 / np.where(deviation > 0, deviation, 1), 0)
    return tuple(((part - mean) * factor).astype(np.float32).reshape(len(part), -1) for part in (x, x_test))


def _digest(found: dict[str, np.ndarray]) -> str:
    """Of all arrays, with their shapes and types."""
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(f"{name} {_shown(found[name])}".encode())
        digest.update(np.ascontiguousarray(found[name]).tobytes())
    return digest.hexdigest()
