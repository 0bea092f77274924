"""Which items a model got right, a bit each, as a summary keeps them. Nothing here imports jax. Letters: U units, I items."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def packed(right: np.ndarray) -> list[str]:
    """One text a unit, of right [U, I]: eight items a byte, in base 64.

    >>> packed([[1, 0, 1]])
    ['oA==']
    """
    return [base64.b64encode(np.packbits(np.asarray(row, bool)).tobytes()).decode() for row in right]


def unpacked(texts: Sequence[str], items: int) -> np.ndarray:
    """bool [U, I], what `packed` was given.

    >>> unpacked(["oA=="], 3).tolist()
    [[True, False, True]]
    """
    bits = [np.frombuffer(base64.b64decode(text, validate=True), np.uint8) for text in texts]
    return np.stack([np.unpackbits(row, count=items) for row in bits]).astype(bool)


def of_row(row: Mapping[str, Any], items: int, kept: str = "right") -> np.ndarray:
    """float [U, I], 1 for right, in the order of a row's seeds.

    >>> of_row({"right": ["oA==", "AA=="]}, 3).mean(axis=1).round(2).tolist()
    [0.67, 0.0]
    """
    return unpacked(row[kept], items).astype(float)
