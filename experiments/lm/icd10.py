"""Medical questions that every machine can have: ICD-10-CM's terms, as the package simple-icd-10-cm carries them."""

import importlib.util
import pathlib
import xml.etree.ElementTree as ElementTree

from experiments.common.errors import UserError
from experiments.data.questions import Pair, Pairs

PACKAGE = "simple_icd_10_cm"


def pairs() -> list[Pair]:
    """What is `included term`? - the diagnosis it belongs to; in the list's order, the same question once.

    Raises:
      UserError: where the package is not installed, or its list cannot be read.
    """
    found: dict[str, Pair] = {}
    for diagnosis in _tabular().iter("diag"):
        description = diagnosis.findtext("desc", "").strip()
        for term in diagnosis.findall("inclusionTerm/note"):
            name = (term.text or "").strip()
            if name and description and name.casefold() != description.casefold():
                found.setdefault(name.casefold(), Pair(f"What is {name}?", f"{description}."))
    return list(found.values())


def questions() -> Pairs:
    """`pairs`, as a file's would come."""
    return Pairs(tuple(pairs()), {}, "ICD-10-CM's terms (simple-icd-10-cm)")


def _tabular() -> ElementTree.Element:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        raise UserError("the package simple-icd-10-cm, which carries the medical terms, is not installed.")
    (place,) = spec.submodule_search_locations
    files = sorted((pathlib.Path(place) / "data").glob("icd10c*tabular*.xml"))
    if not files:
        raise UserError(f"{place}: there is no tabular list of ICD-10-CM in it; reinstall simple-icd-10-cm.")
    try:
        return ElementTree.parse(files[-1]).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise UserError(f"{files[-1]} cannot be read ({error}); reinstall simple-icd-10-cm.") from error
