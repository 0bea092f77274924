"""Items of one part, packed into rows: what is learned from, and what is measured on, item by item.

Letters: N rows, T tokens, P scored places of a row, K the most items of a row, I items.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from experiments.data import packing
from experiments.data.questions import Pair
from experiments.lm import answers


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """`rows` as `packing.gathered` gives them, and "items" int32 [N, P], the number of a place's item within its row, 0 for none.

    `owners` int [N, K] says which of all items these are, -1 for none; `kept` which of the pairs that were given fitted into a row.
    """

    rows: dict[str, jax.Array]
    owners: np.ndarray
    kept: tuple[int, ...]

    @property
    def count(self) -> int:
        """I."""
        return len(self.kept)


def digest(part: Part) -> str:
    """Of all that is in it."""
    found = hashlib.sha256(repr(part.kept).encode())
    for name, leaf in (("owners", part.owners), *sorted(part.rows.items())):
        leaf = np.asarray(leaf)
        found.update(f"{name} {leaf.dtype} {leaf.shape}".encode() + leaf.tobytes())
    return found.hexdigest()


def packed(tokenizer: tokenizers.Tokenizer, pairs: Sequence[Pair], length: int) -> Part:
    """The pairs that fit into rows of `length` tokens."""
    encoded = answers.encode(tokenizer, pairs, length)
    numbers = {id(pair): number for number, pair in enumerate(pairs)}
    kept = tuple(numbers[id(pair)] for pair in encoded.pairs)
    rows, members = packing.place(encoded.examples, length)
    batch = packing.gathered(rows)
    items = np.take_along_axis(rows.segments, batch["places"], axis=1) * (batch["weights"] > 0)
    most = max(map(len, members))
    owners = np.asarray([[*held, *[-1] * (most - len(held))] for held in members])
    return Part(jax.tree.map(jnp.asarray, {**batch, "items": items.astype(np.int32)}), owners, kept)


def of_rows(rows: packing.Rows) -> Part:
    """Text, every row an item."""
    batch = packing.gathered(rows)
    items = (batch["weights"] > 0).astype(np.int32)
    return Part(
        jax.tree.map(jnp.asarray, {**batch, "items": items}),
        np.arange(len(rows.ids))[:, None],
        tuple(range(len(rows.ids))),
    )
