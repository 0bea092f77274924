"""A run's folder: config.json, environment.json, metrics.jsonl, and summary.json, whose presence means complete."""

import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from experiments.common import processes
from experiments.common.errors import UserError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def path_of(workdir: str, name: str, config: dict[str, Any]) -> epath.Path:
    """Where a run of this config is, or would be."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
    return epath.Path(workdir) / f"{name}-{digest}"


class RunFolder:
    """`<workdir>/<name>-<hash of config>`: the same command finds its run again, another config never meets it."""

    def __init__(self, workdir: str, name: str, config: dict[str, Any]):
        self.config = json.loads(json.dumps(config))
        self.path = path_of(workdir, name, self.config)
        make_folder(self.path)
        write_json(self.path / "config.json", self.config)

    def summary(self) -> dict[str, Any] | None:
        """The summary of a complete run, else None. Raises UserError for one that is damaged or of other settings."""
        path = self.path / "summary.json"
        summary = processes.agreed_by_first(lambda: _whole(path))
        if summary is not None and (
            not isinstance(summary, dict) or summary.get("settings") != self.config["settings"]
        ):
            raise _damaged(path, "it is no summary of this run")
        return summary

    def finish(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Writes the summary last, atomically; returns it as a reader will find it."""
        write_json(self.path / "summary.json", summary)
        return processes.agreed_by_first(lambda: read_json(self.path / "summary.json"))

    def record(self, **values: Any) -> None:
        """Appends a line to metrics.jsonl, apart from half a line that a killed run may have left there."""
        if not processes.is_first():
            return
        path, line = self.path / "metrics.jsonl", json.dumps(values).encode() + b"\n"
        if is_remote(path):  # an object of a bucket is written whole
            path.write_bytes((path.read_bytes() if path.exists() else b"") + line)
            return
        with pathlib.Path(path).open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(line)

    def records(self, phase: str) -> Iterator[dict[str, Any]]:
        """The lines of a phase, the last of each step: a resumed run may have written some twice, or half of one."""
        values = processes.agreed_by_first(
            lambda: list(filter(None, map(_record, _lines(self.path / "metrics.jsonl"))))
        )
        last = {value["step"]: value for value in values if value["phase"] == phase}
        return iter([last[step] for step in sorted(last)])

    def write_environment(self, **more: Any) -> None:
        """environment.json: commit, versions, device, and whatever else the run depends on."""
        write_json(self.path / "environment.json", {**environment(), **more})


def _whole(path: epath.Path) -> Any:
    """What a summary says; None, and a line, where it is not whole: then it is made again."""
    try:
        return read_json(path)
    except UserError:
        print(f"{path} is damaged; making it again, from what is saved", flush=True)
        return None


def _lines(path: epath.Path) -> list[str]:
    return path.read_bytes().decode(errors="replace").split("\n") if path.exists() else []


def _record(line: str) -> dict[str, Any] | None:
    """What a line of metrics.jsonl says; None where it is not whole."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) and {"phase", "step"} <= value.keys() else None


def environment() -> dict[str, Any]:
    """Commit, versions and device of this process."""
    import jax

    import lora_jax

    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {**versions, "lora_jax": lora_jax.__version__},  # which need not be installed
        "device": str(jax.devices()[0]),
        "platform": jax.default_backend(),
        "cores": os.cpu_count(),
    }


@functools.cache  # of the code that this process has loaded
def _commit() -> str | None:
    here = epath.Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def slug(name: str) -> str:
    """A name as a file's: letters and digits, all else an underscore."""
    return "".join(c if c.isalnum() else "_" for c in name)


def is_remote(path: epath.Path) -> bool:
    """`lora_jax.files.is_remote`, for readers of records on a machine that has no JAX."""
    return "://" in str(path)


def make_folder(path: epath.Path, flag: str = "--workdir") -> None:
    """Creates a folder and makes sure that it can be written to; UserError where not, naming the flag to change."""
    processes.agreed_by_first(lambda: _make(path, flag))


def _make(path: epath.Path, flag: str) -> None:
    probe = path / f".probe.{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror or error}; choose another {flag}.") from error
    except Exception as error:  # a bucket's library: of many kinds
        if not is_remote(path):
            raise
        raise UserError(
            f"cannot write to {path}: {type(error).__name__}: {str(error).splitlines()[0]}; is the bucket there, may you write to it "
            f"(gcloud auth application-default login), and is `pip install -e '.[gcs]'` done? Or choose another {flag}."
        ) from error


def remove(path: epath.Path) -> None:
    """A folder and all that is in it, if there is one; of several processes the first does it, and all wait."""
    if processes.is_first():
        path.rmtree(missing_ok=True)
    processes.wait(f"removed {path}")


def write_json(path: epath.Path, value: Any) -> None:
    """Atomically: a reader sees the old file or the new one. NaN is not JSON and is refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: epath.Path, text: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: epath.Path, content: bytes) -> None:
    """Atomically; of several processes the first writes."""
    if not processes.is_first():
        return
    if is_remote(path):
        path.write_bytes(content)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # before the name: a machine may lose its power
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def copy(files: Sequence[epath.Path], folder: epath.Path) -> None:
    """Files under their own names, by the first process, which has written them; all wait for it."""
    if processes.is_first():
        for path in files:
            write_bytes(folder / path.name, path.read_bytes())
    processes.wait(f"copied to {folder}")


def read_json(path: epath.Path) -> Any:
    """The value, or None where there is no such file. Raises UserError for a damaged one."""
    try:
        return json.loads(path.read_text()) if path.exists() else None
    except ValueError as error:  # not JSON, or not even text
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _damaged(path: epath.Path, why: str) -> UserError:
    return UserError(f"{path} is damaged ({why}); remove it, and the run makes it again.")
