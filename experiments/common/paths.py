"""A path as a user writes it, here or in a bucket; what can be no path is refused before anything is made of it."""

import importlib.util
import os
import re

LIBRARIES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}  # what reads and writes a bucket, by the scheme of its paths
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
LONGEST_NAME, LONGEST = 255, 4095  # bytes, of a name and of a path, where Linux stops


def checked(text: str) -> str:
    """The path with ~ expanded.

    >>> checked("runs/a"), checked("~/runs") == os.path.expanduser("~/runs")
    ('runs/a', True)

    Raises:
      ValueError: for what is no path; the message ends a sentence that begins with the flag.
    """
    if not text.strip():
        raise ValueError("it is empty; name a path, or leave the flag out")
    scheme = SCHEME.match(text)
    if scheme:
        return _in_bucket(text, scheme[1])
    path = os.path.expanduser(text)  # noqa: PTH111  (pathlib raises for an unknown user)
    if path.startswith("~"):
        raise ValueError(
            f"there is no user {path.split('/')[0][1:]!r} whose home it could be; write ./~... for such a name"
        )
    if "\0" in path or any(len(os.fsencode(name)) > LONGEST_NAME for name in path.split("/")) or len(path) > LONGEST:
        raise ValueError(
            f"it is no path: a name has at most {LONGEST_NAME} bytes, a path {LONGEST:,}, and no zero byte"
        )
    if not os.path.isabs(path):  # noqa: PTH117
        _require_utf8(os.getcwd())  # noqa: PTH109
    return path


def _require_utf8(folder: str) -> None:
    try:
        folder.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"the folder it starts from, {folder!a}, has a name that is not UTF-8; start the program in another folder"
        ) from None


def _in_bucket(text: str, scheme: str) -> str:
    library = LIBRARIES.get(scheme)
    if library is None or not text.startswith(f"{scheme}://"):
        known = ", ".join(f"{name}://" for name in LIBRARIES)
        raise ValueError(f"nothing here reads {scheme}: paths; name a path on this machine, or in a bucket ({known})")
    if not has_library(library):
        extra = "pip install -e '.[gcs]'" if scheme == "gs" else f"pip install {library}"
        raise ValueError(f"{scheme}:// needs the package {library}, which is not installed: {extra}")
    return text


def has_library(name: str) -> bool:
    """Whether a bucket can be read: by that package, or by TensorFlow."""
    return any(importlib.util.find_spec(module) is not None for module in (name, "tensorflow"))


def checked_name(text: str) -> str:
    """A folder as `checked`, or a name on Hugging Face's hub.

    >>> checked_name("prajjwal1/bert-tiny")
    'prajjwal1/bert-tiny'
    """
    page = re.match(r"https?://huggingface\.co/([^/?#]+/[^/?#]+)", text)
    if page:
        raise ValueError(f"give the model's name alone, {page[1]}, or a folder")
    return checked(text)
