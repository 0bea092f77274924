"""Tables that are tied: looked up and multiplied by. torch has two modules of them, the embedding and the output layer, and a file may have both.

PEFT gives what it trains to the embedding alone, unless the output layer is in the file as well (`modules_to_save` of both) or
`ensure_weight_tying` is set, which gives it to both where the table is called as PEFT looks for it. Here a table is one, so that both must
be the same.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lora_jax.errors import PeftError
from lora_jax.peft import adapter_config, tensors
from lora_jax.peft.keys import Found
from lora_jax.peft.names import Slot
from lora_jax.peft.tensors import EMBEDDING_A, EMBEDDING_B, LORA_A, LORA_B
from lora_jax.products.site import Site

# torch's output layer, by the name of the table that it is tied to, as transformers has them; others must be told.
OUTPUT_LAYERS = {
    "embed_tokens": "lm_head",
    "model.embed_tokens": "lm_head",
    "model.decoder.embed_tokens": "lm_head",
    "transformer.wte": "lm_head",
    "wte": "lm_head",
    "bert.embeddings.word_embeddings": "cls.predictions.decoder",
    "roberta.embeddings.word_embeddings": "lm_head.decoder",
    "distilbert.embeddings.word_embeddings": "vocab_projector",
}


# The names under which PEFT looks for tables to tie when `ensure_weight_tying` is set (its EMBEDDING_LAYER_NAMES); others it does not tie.
PEFT_S_NAMES = ("embed_tokens", "lm_head")


class Copies(NamedTuple):
    """What a file says of output layers that are tied to a table here."""

    adapters: set[str]  # torch paths
    tables: set[str]  # whose copy the file has, or that PEFT ties itself
    problems: list[str]


def is_tied_table(site: Site | None) -> bool:
    """Whether rows of it are looked up, and it is multiplied by as well."""
    return site is not None and site.is_lookup and site.is_tied


def are_tied_by_peft(values: Mapping[str, Any]) -> bool:
    """Whether PEFT gives what the file has of an embedding to the output layer as well.

    >>> are_tied_by_peft({"ensure_weight_tying": True, "target_modules": ["embed_tokens"]})
    True
    >>> are_tied_by_peft({"ensure_weight_tying": True, "target_modules": ["word_embeddings"]})
    False
    """
    if not values.get("ensure_weight_tying"):
        return False
    targets = values.get("target_modules") or ()
    if isinstance(targets, str):
        named = {name for name in PEFT_S_NAMES if re.fullmatch(targets, name)}
    else:
        named = {name.rpartition(".")[2] for name in targets}
    named |= {name.rpartition(".")[2] for name in values.get("modules_to_save") or ()}
    return bool(named & set(PEFT_S_NAMES))


def without_copies(values, found: Found, slots: Mapping[str, Slot], known, leaves, layout) -> tuple[Found, Copies]:
    """The tensors without those that only say again what a tied table has, and what is wrong with these."""
    tables = [path for path, slot in slots.items() if is_tied_table(layout[slot.module]) and f"{path}.weight" in known]
    copies = Copies(set(), set(tables) if are_tied_by_peft(values) else set(), [])
    if len(tables) != 1:
        return found, copies
    table, site = tables[0], layout[slots[tables[0]].module]
    weight = f"{table}.weight"
    trained, shape = found.others.get(weight), known[weight].shape

    def base() -> np.ndarray:  # tables are large
        return tensors.parameter_to_torch(site, site.leaf, leaves[known[weight].path])

    adapters, others = dict(found.adapters), dict(found.others)
    for key in [key for key in others if key not in known and key.endswith(".weight") and others[key].shape == shape]:
        copies.tables.add(table)
        if not _is_same(others.pop(key), base() if trained is None else trained):
            copies.problems.append(f"{key} is another than {weight}, and the two are one table here")
    for path in [path for path in adapters if path not in slots and table in adapters]:
        if not is_copy(adapters[path], adapters[table]):
            continue
        copies.tables.add(table)
        copies.adapters.add(path)
        adapters.pop(path)
        copies.problems.extend(_other_scale(values, path, table, found.adapters[table]))
    rows = dict(found.rows)
    for path in [path for path in rows if f"{path}.weight" not in known and table in rows]:
        if not _is_same(rows.pop(path), rows[table]):
            copies.problems.append(
                f"the rows of {path} are others than those of {table}, and the two are one table here"
            )
    if table not in copies.tables and trained is not None and not _is_same(trained, base()):
        copies.problems.append(
            f"{weight} is tied here, and PEFT gives it to the input alone: the file must have the output layer's weight too, or "
            f"adapter_config.json ensure_weight_tying, which PEFT heeds for tables called {' or '.join(PEFT_S_NAMES)}"
        )
    return found._replace(adapters=adapters, others=others, rows=rows), copies


def is_copy(adapter: Mapping[str, np.ndarray], of: Mapping[str, np.ndarray]) -> bool:
    """Whether the factors of an output layer are those of a table the other way round."""
    pairs = ((LORA_A, EMBEDDING_B), (LORA_B, EMBEDDING_A))
    if adapter.keys() != {LORA_A, LORA_B} or not {EMBEDDING_A, EMBEDDING_B} <= of.keys():
        return False
    return all(np.array_equal(adapter[mine], of[its].T) for mine, its in pairs)


def _is_same(one: np.ndarray, other: np.ndarray) -> bool:
    """In the coarser of the two dtypes."""
    dtype = min(one.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
    return one.shape == other.shape and np.array_equal(one.astype(dtype), other.astype(dtype))


def _other_scale(values, path: str, table: str, adapter: Mapping[str, np.ndarray]) -> list[str]:
    rank = tensors.rank_of(adapter) or 1
    scales = [adapter_config.scale(values, each, rank) for each in (path, table)]
    if scales[0] == scales[1]:
        return []
    return [f"the scale of {path} is {scales[0]:g} and that of {table} {scales[1]:g}, and the two are one table here"]


def output_layer(table: str, told: str | None) -> str:
    """torch's name of the output layer that shares this table.

    Raises:
      PeftError: where it is neither known nor told.

    >>> output_layer("model.embed_tokens", None), output_layer("table", "head")
    ('lm_head', 'head')
    """
    name = told or OUTPUT_LAYERS.get(table)
    if name is None:
        raise PeftError(
            f"{table} is tied, and PEFT gives what it holds to the input alone unless the file has the output layer too: say what torch calls that "
            "by output_layer=, or leave the table out."
        )
    return name


def adapter_of_output(adapter: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The factors of the output layer, from those of its table, suffix -> tensor."""
    return {
        LORA_A: np.ascontiguousarray(adapter[EMBEDDING_B].T),
        LORA_B: np.ascontiguousarray(adapter[EMBEDDING_A].T),
    }
