"""A folder in place of Cloud Storage: only what reads and writes through `etils.epath` finds its files."""

import importlib
import pathlib
import shutil
from typing import Any

import pytest
from etils.epath import backend, gpath

from experiments.common import paths

NAME = "gs://bucket"
ORBAX = "orbax.checkpoint._src.path.gcs_utils"
FUNCTIONS = ["open", "exists", "isdir", "listdir", "glob", "makedirs", "mkdir", "rmtree", "remove", "rename", "replace"]


class Bucket(backend._OsPathBackend):
    """Paths are the bucket's, and a file cannot be appended to."""

    def __init__(self, home):
        for name in FUNCTIONS:
            setattr(self, name, self._at(str(home), getattr(super(), name)))

    def _at(self, home: str, function):
        def inside(value: Any) -> Any:
            return value.replace(NAME, home, 1) if isinstance(value, str) else value

        def run(path, *args, **kwargs):
            if "://" not in str(path):
                return function(path, *args, **kwargs)
            assert str(path).startswith(NAME), path
            assert "a" not in args[:1] and "+" not in str(args)
            found = function(inside(str(path)), *map(inside, args), **kwargs)
            return [item.replace(home, NAME) for item in found] if isinstance(found, list) else found

        return run


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder that stands for gs://bucket; every other gs:// path fails the test."""
    (tmp_path / "bucket").mkdir()
    monkeypatch.setattr(gpath._GPath, "_backend", Bucket(tmp_path / "bucket"))
    monkeypatch.setattr(paths, "has_library", lambda name: name == "gcsfs")
    return tmp_path / "bucket"


@pytest.fixture
def orbax_bucket(bucket, monkeypatch):
    """A bucket to orbax, too, which speaks to Cloud Storage itself."""

    def in_folder(path):
        return {"driver": "file", "path": f"{path.replace(NAME, str(bucket), 1)}/"}

    if not hasattr(importlib.import_module(ORBAX), "get_kvstore_for_gcs"):
        pytest.skip("this orbax speaks to Cloud Storage in another way, in which no folder stands in for a bucket")
    monkeypatch.setattr(f"{ORBAX}.get_kvstore_for_gcs", in_folder)
    monkeypatch.setattr(f"{ORBAX}.is_hierarchical_namespace_enabled", lambda path: False)
    return bucket


def unfinished(step: pathlib.Path) -> None:
    """What a kill during saving leaves: in a bucket nothing is renamed, and a file that comes last says that all is there."""
    (step / "commit_success.txt").unlink()
    shutil.rmtree(step / "arrays")
