"""Which sentences each run had right, as a summary keeps it: a bit a sentence. Nothing here imports jax.

A row's "right" has one text a seed: base64 of `numpy.packbits` of 1 for right, 0 for wrong, in the order of the validation split.
"""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np


def packed(right: np.ndarray) -> str:
    """Of bool [I]; `unpacked` is its inverse.

    >>> packed(np.array([True, False, True]))
    'oA=='
    """
    return base64.b64encode(np.packbits(np.asarray(right, bool))).decode()


def unpacked(text: str, sentences: int) -> np.ndarray:
    """bool [I] of what `packed` wrote.

    >>> unpacked("oA==", 3).tolist()
    [True, False, True]
    """
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=sentences).astype(bool)


def of_row(row: Mapping[str, Any], sentences: int, kept: str = "right") -> np.ndarray:
    """float [U, I], 1 for right, in the order of the row's seeds.

    >>> of_row({"right": ["oA==", "AA=="]}, 3).mean(axis=1).round(2).tolist()
    [0.67, 0.0]
    """
    return np.stack([unpacked(text, sentences) for text in row[kept]]).astype(float)
