"""Do the imports of the house go one way? Rooms are the folders of `experiments`, and the packages of the repository."""

import ast
import collections
import graphlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SHARED = ("common", "data", "ledger")  # each may import those before it
STUDIES = ("digit9", "new_digits", "linear", "sst2", "bert", "lm", "finetune")  # these import no entry's room


def imported(path: pathlib.Path):
    """Dotted names of the modules of this repository that a file imports, within functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def arrows() -> dict[str, set[str]]:
    """room -> the rooms of `experiments` that it imports."""
    found = collections.defaultdict(set)
    for path in (ROOT / "experiments").glob("*/**/*.py"):
        room = path.relative_to(ROOT / "experiments").parts[0]
        for name in imported(path):
            if name.startswith("experiments.") and (to := name.split(".")[1]) != room:
                found[room].add(to)
    return found


def test_no_room_imports_one_that_imports_it():
    tuple(graphlib.TopologicalSorter(arrows()).static_order())  # raises CycleError


@pytest.mark.parametrize("room", SHARED)
def test_what_studies_share_imports_no_study(room):
    assert arrows()[room] <= set(SHARED[: SHARED.index(room)])


@pytest.mark.parametrize("room", STUDIES)
def test_a_study_imports_what_is_shared_and_what_it_starts_from(room):
    allowed = {*SHARED, *({"bert"} if room == "sst2" else ())}
    assert arrows()[room] <= allowed


def test_the_library_imports_no_experiment():
    for path in (ROOT / "lora_jax").glob("**/*.py"):
        assert not [name for name in imported(path) if name.split(".")[0] in ("experiments", "tests")], path


def test_models_know_nothing_of_adapters():
    """They import each other, and the library's helpers that have nothing to do with adapters either."""
    helpers = {"errors", "files", "scalars", "tree", "keys"}
    for path in (ROOT / "lora_jax" / "models").glob("**/*.py"):
        rooms = {name.split(".")[1] for name in imported(path) if name.startswith("lora_jax.")}
        assert rooms <= {"models", *helpers}, (path, rooms)
    for name in helpers:
        for path in [ROOT / "lora_jax" / f"{name}.py", *(ROOT / "lora_jax" / name).glob("**/*.py")]:
            rooms = (
                {other.split(".")[1] for other in imported(path) if other.startswith("lora_jax.")}
                if path.exists()
                else set()
            )
            assert rooms <= helpers, (path, rooms)
