"""on_gpu.json: every part that is measured, each with the commit, the versions and the moment of its measurement."""

import sys
import time
from typing import Any

from etils import epath

from experiments.common.recording import read_sealed, write_sealed

FILE = "on_gpu.json"
SAME = ("device_kind", "devices", "platform", "preset")  # what parts that stand in one file have in common


class Record:
    """The parts in `folder`, and those of an earlier run on such a device, whose file may be somewhere else; written whole after every part."""

    def __init__(self, folder: epath.Path, about: dict[str, Any], earlier: epath.Path | None = None):
        self.folder, self.about = folder, about
        self.parts = {**(_parts(earlier / FILE, about) if earlier else {}), **_parts(folder / FILE, about)}

    def add(self, name: str, **measured: Any) -> None:
        """`result` and `seconds`, or `failed`; what is there of the part already is replaced only by a result."""
        known = self.parts.get(name, {})
        if "failed" in measured and ("result" in known or known.get("failed") == measured["failed"]):
            return
        stamp = {"commit": self.about["commit"], "sources": self.about["sources"], "packages": self.about["packages"]}
        stamp |= {"measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        self.parts[name] = {**measured, **stamp}
        self.write()

    def write(self) -> None:
        write_sealed(self.folder / FILE, {**{key: self.about[key] for key in SAME}, "parts": self.parts})

    def order(self, names: list[str]) -> list[str]:
        """What to measure: first what is missing, then what was measured by other code, the oldest first."""
        missing = [name for name in names if "result" not in self.parts.get(name, {})]
        others = [
            name for name in names if name not in missing and self.parts[name]["sources"] != self.about["sources"]
        ]
        return missing + sorted(others, key=lambda name: self.parts[name]["measured_at"])


def _parts(path: epath.Path, about: dict[str, Any]) -> dict[str, Any]:
    """Of a file that is there and of such a device; none otherwise, with a line where it is of another."""
    found = read_sealed(path)
    if found is None:
        return {}
    others = [key for key in SAME if found.get(key) != about[key]]
    if others:
        print(f"not taken up: {path} is of another {', '.join(others)}", file=sys.stderr, flush=True)
        return {}
    return found["parts"]
