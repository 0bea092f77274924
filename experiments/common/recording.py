"""A run's folder: config.json, environment.json, metrics.jsonl, and summary.json, whose presence means complete."""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etils import epath

from experiments.common import locks, processes
from experiments.common.errors import UserError

SUMMARY, ENVIRONMENT, SEAL = "summary.json", "environment.json", "seal"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def path_of(workdir: str, name: str, config: dict[str, Any]) -> epath.Path:
    """Where a run of this config is, or would be."""
    return epath.Path(workdir) / f"{name}-{_digest(config)[:8]}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_run(path: epath.Path, name: str) -> dict[str, Any] | None:
    """The summary of a complete run of this name in a folder, which may lie anywhere; None where there is none.

    Raises:
      UserError: for a summary that this run did not write as it is.
    """
    config = read_json(path / "config.json")
    return read_sealed(path / SUMMARY, run_of(name, config)) if isinstance(config, dict) else None


def run_of(name: str, config: dict[str, Any]) -> str:
    """What all that a run saves is bound to."""
    return _digest({"name": name, **config})[:16]


class RunFolder:
    """`<workdir>/<name>-<hash of config>`: the same command finds its run again, another config never meets it."""

    def __init__(self, workdir: str, name: str, config: dict[str, Any]):
        self.config = json.loads(json.dumps(config))
        self.path = path_of(workdir, name, self.config)
        self.run = run_of(name, self.config)
        make_folder(self.path)
        write_json(self.path / "config.json", self.config)

    def held(self) -> contextlib.AbstractContextManager[None]:
        """The folder, for this run alone; UserError, that says who, where another process has it."""
        return locks.held(self.path)

    def summary(self) -> dict[str, Any] | None:
        """The summary of a complete run, else None. Raises UserError for one that this run did not write as it is."""
        return read_sealed(self.path / SUMMARY, self.run, look=_whole)

    def finish(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Writes the summary last, atomically; returns it as a reader will find it."""
        write_sealed(self.path / SUMMARY, summary, self.run)
        return self.summary()

    def write(self, name: str, value: Any) -> None:
        """A part of the run's results, which `read` knows to be of this run."""
        make_folder((self.path / name).parent)
        write_sealed(self.path / name, {"run": self.run, "value": value}, self.run)

    def read(self, name: str) -> Any:
        """What `write` wrote; None where there is nothing. Raises UserError for what is another run's, or was changed since then."""
        found = read_sealed(self.path / name, self.run)
        return None if found is None else found["value"]

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `write` wrote; made and written where there is nothing."""
        if (known := self.read(name)) is None:
            self.write(name, make())
            known = self.read(name)
        return known

    def record(self, **values: Any) -> None:
        """Appends a line to metrics.jsonl, apart from half a line that a killed run may have left there."""
        if not processes.is_first():
            return
        path, line = self.path / "metrics.jsonl", json.dumps(_sealed({**values, "run": self.run}, self.run)).encode()
        if is_remote(path):  # an object of a bucket is written whole
            path.write_bytes((path.read_bytes() if path.exists() else b"") + line + b"\n")
            return
        from lora_jax.files import append_line

        append_line(path, line)

    def records(self, phase: str) -> Iterator[dict[str, Any]]:
        """The lines of a phase, the last of each step: a resumed run may have written some twice, or half of one. Those of another run do
        not count."""
        values = processes.agreed_by_first(
            lambda: list(filter(None, map(self._record, _lines(self.path / "metrics.jsonl"))))
        )
        last = {value["step"]: value for value in values if value["phase"] == phase}
        return iter([last[step] for step in sorted(last)])

    def _record(self, line: str) -> dict[str, Any] | None:
        """What a line of metrics.jsonl says; None where it is not as it was written, or not this run's."""
        from lora_jax.files import fits, parse

        try:
            value = parse(line, "metrics.jsonl", error=UserError, nan=True)
        except UserError:
            return None
        is_ours = isinstance(value, dict) and _is_sealed(value, self.run) and value.pop("run", None) == self.run
        is_whole = is_ours and fits(value.get("phase"), str) and fits(value.get("step"), int)
        return value if is_whole else None

    def write_environment(self, **more: Any) -> None:
        """environment.json: commit, versions, device, and whatever else the run depends on."""
        write_json(self.path / ENVIRONMENT, {**environment(), **more})


def _whole(path: epath.Path) -> Any:
    """What a summary says; None, and a line, where it is not whole: then it is made again."""
    try:
        return read_json(path)
    except UserError:
        print(f"{path} is damaged; making it again, from what is saved", flush=True)
        return None


def _lines(path: epath.Path) -> list[str]:
    return path.read_bytes().decode(errors="replace").split("\n") if path.exists() else []


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
    probe = path / f".probe.{secrets.token_hex(8)}.tmp"
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
    from lora_jax.errors import ModelError
    from lora_jax.files import write_atomically

    try:
        write_atomically(path, content)
    except ModelError as error:
        raise UserError(f"{str(error).rstrip('.')}; mend that, and the same command goes on.") from error


def copy(files: Sequence[epath.Path], folder: epath.Path) -> None:
    """Files under their own names, by the first process, which has written them; all wait for it."""
    if processes.is_first():
        for path in files:
            write_bytes(folder / path.name, path.read_bytes())
    processes.wait(f"copied to {folder}")


def write_sealed(path: epath.Path, value: dict[str, Any], owner: str = "") -> None:
    """As `write_json`, with a digest of it and its owner in it: what another wrote, or changed since then, `read_sealed` refuses."""
    write_json(path, _sealed(value, owner))


def _sealed(value: dict[str, Any], owner: str) -> dict[str, Any]:
    plain = json.loads(json.dumps(value))
    return {**plain, SEAL: _digest([owner, plain])}


def _is_sealed(value: dict[str, Any], owner: str) -> bool:
    """Whether it is as it was sealed; takes the seal off."""
    said = value.pop(SEAL, None)
    return said is not None and said == _digest([owner, value])


def read_sealed(
    path: epath.Path, owner: str = "", *, look: Callable[[epath.Path], Any] | None = None
) -> dict[str, Any] | None:
    """What `write_sealed` wrote for this owner; None where there is no such file. Every process of a run has it from the first.

    Args:
      look: reads the file; `read_json` by default.

    Raises:
      UserError: for anything else.
    """
    found = processes.agreed_by_first(lambda: (look or read_json)(path))
    if found is None:
        return None
    if isinstance(found, dict) and SEAL not in found:
        raise _damaged(path, "it has no seal: an earlier version of this suite wrote it, or it was changed")
    if not isinstance(found, dict) or not _is_sealed(found, owner):
        raise _damaged(path, "it is not what this run wrote, or was changed since then")
    return found


def read_json(path: epath.Path) -> Any:
    """The value, or None where there is no such file. Raises UserError for a damaged one."""
    if not path.exists():
        return None
    from lora_jax import files

    try:
        found = files.read_json(path, error=UserError)
    except UserError as error:
        raise _damaged(path, str(error).removeprefix(f"{path} ").rstrip(".")) from error
    if found is None:
        raise _damaged(path, "it says null")
    return found


@contextlib.contextmanager
def understood(path: epath.Path, advice: str) -> Iterator[None]:
    """Turns what a file of another shape does to its reader into one sentence. For files that are not sealed, as those of a repository."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"{path} does not hold what is expected there ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); {advice}."
        ) from error


def _damaged(path: epath.Path, why: str) -> UserError:
    return UserError(f"{path} is damaged ({why}); remove it, and the run makes it again.")
