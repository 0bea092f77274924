"""What a folder holds beside the adapters: modules that train whole, heads that a task asks for, biases, rows of tables."""

import dataclasses
import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from lora_jax.errors import PeftError
from lora_jax.leaves import is_adapter_leaf, owner, owners
from lora_jax.partition import Mask, trainable_paths
from lora_jax.peft import adapter_config, names, targeting, tensors, ties, tokens
from lora_jax.peft.names import Names, Slot
from lora_jax.products.site import Site
from lora_jax.quantised import Quantised
from lora_jax.tree import nested


@dataclasses.dataclass
class Beside:
    """Tensors by key without PEFT's prefix, and what the config must say of them."""

    stored: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    modules_to_save: set[str] = dataclasses.field(default_factory=set)
    bias: str = "none"
    token_indices: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    ensure_weight_tying: bool = False


@dataclasses.dataclass
class Tree:
    """What is written, and how torch calls it."""

    leaves: Mapping[str, Any]
    layout: Mapping[str, Site]
    names_of: Names
    output_layer: str | None
    every: set[str] = dataclasses.field(init=False)  # torch paths of all modules

    def __post_init__(self):
        self.every = names.universe(self.leaves, self.names_of)  # which tells names that are none

    @functools.cached_property
    def slots(self) -> dict[str, Slot]:
        """torch path -> what it is of the layout."""
        return names.slots(names.stacks(self.layout, self.leaves), self.names_of)

    def marked(self, paths: Iterable[str]) -> list[str]:
        """Those of these torch paths that are parameters for torch, and no layers."""
        return [path for path in paths if self.slots[path].mark]

    def module(self, path: str) -> str:
        """torch's module of a leaf."""
        return self.names_of(path.rpartition("/")[0])

    def site(self, path: str) -> Site | None:
        return self.layout.get(path.rpartition("/")[0])


def kept(
    tree: Tree,
    mask: Mask | None,
    task: str | None,
    rows: Sequence[str],
    base: Mapping[str, Any] | None,
    settled: set[str],
) -> Beside:
    """All of it.

    Args:
      rows: the tables of which only rows are written. settled: leaves that are written with the adapters.

    Raises:
      PeftError: for what PEFT's format has no place for.
    """
    found = Beside()
    trained = set() if mask is None else trainable_paths(mask, nested(tree.leaves))
    trained = {path for path in trained if not is_adapter_leaf(path)} - set(rows) - settled
    for path in rows:
        _add_rows(found, tree, path, base)
    biases, heads = _add_biases(found, tree, trained), _add_task_heads(found, tree, task)
    _require_kept(tree, trained | heads | settled | set(rows), base or {})
    trained -= biases | heads
    trained -= _add_adapted_tables(found, tree, trained)
    modules = sorted({path.rpartition("/")[0] for path in trained})
    saved = {tree.names_of(module) for module in modules}
    for module in modules:
        _require_whole(module, trained, tree.leaves)
        _add_module(found, tree, module, saved=saved)
    return found


def _require_kept(tree: Tree, written: set[str], base: Mapping[str, Any]) -> None:
    """Raises PeftError where a leaf has moved away from the base's and is not written."""
    for path in sorted(base.keys() & tree.leaves.keys() - written):
        now, before = tree.leaves[path], base[path]
        if is_adapter_leaf(path) or isinstance(now, Quantised) or isinstance(before, Quantised):
            continue
        if not np.array_equal(*(np.asarray(nn.meta.unbox(leaf)) for leaf in (now, before))):
            raise PeftError(
                f"{path} is not the base's and would not be in the folder: name it in the mask, by trainable_mask(params, train=...)."
            )


def _add_rows(found: Beside, tree: Tree, path: str, base: Mapping[str, Any] | None) -> None:
    module, which, rows = tokens.changed(path, tree.leaves, base, tree.layout, tree.names_of)
    if path.removesuffix(path.rpartition("/")[2]) in owners(tree.leaves):
        raise PeftError(
            f"token_rows: {path} has an adapter, and PEFT has rows of tables without one only; leave one of them out."
        )
    for name in _with_output(tree, module, tree.site(path), path):
        found.stored[f"{name}.{tokens_key()}"] = rows
        found.token_indices[names.saved_name(name, tree.every | {name})] = which


def tokens_key() -> str:
    """What ends the key of rows of a table."""
    return "token_adapter.trainable_tokens_delta"


def _with_output(tree: Tree, module: str, site: Site | None, path: str) -> list[str]:
    """A module of torch, and the output layer that is tied to it, if one is."""
    if site is not None and not site.uses:
        raise PeftError(
            f"{path}: whether it is tied is not known; pass the layout that lora_jax.layout(base_module, x) gives."
        )
    unclear = getattr(tree.layout, "missed", {}).get(path)
    if (site is None and unclear is not None and unclear.uses) or (
        site is not None and site.is_tied and not site.is_lookup
    ):
        raise PeftError(f"{path} is used in several ways, and what torch calls them is not known; leave it out.")
    return [module, ties.output_layer(module, tree.output_layer)] if ties.is_tied_table(site) else [module]


def _add_adapted_tables(found: Beside, tree: Tree, trained: set[str]) -> set[str]:
    """Tables that have an adapter and are not the base's: PEFT saves them under it (`save_embedding_layers`)."""
    adapted = owners(tree.leaves)
    tables = {path for path in trained if path.rpartition("/")[2] == "embedding" and owner(path) in adapted}
    for path in tables:
        site = tree.site(path)
        weight = tensors.parameter_to_torch(site, "embedding", tree.leaves[path])
        for name in _with_output(tree, tree.module(path), site, path):
            found.stored[f"{name}.base_layer.weight"] = weight
    return tables


def _add_task_heads(found: Beside, tree: Tree, task: str | None) -> set[str]:
    """The heads that PEFT asks for as soon as the task is said, whether they train or not."""
    wanted = adapter_config.heads_of_task({"task_type": task})
    if not wanted:
        return set()
    heads = {path for path in tree.every if path.endswith(wanted)}
    heads = {path for path in heads if not any(path.startswith(f"{other}.") for other in heads)}
    if not heads:
        raise PeftError(
            f"task_type={task!r} makes PEFT ask for a head called {' or '.join(wanted)}, and these parameters have none; give them the head, or "
            "leave task_type out."
        )
    written = set()
    for module in sorted({path.rpartition("/")[0] for path in tree.leaves}):
        above = [head for head in heads if f"{tree.names_of(module)}.".startswith(f"{head}.")]
        if above:
            _add_module(found, tree, module, above[0])
            written |= {path for path in tree.leaves if path.rpartition("/")[0] == module}
    stacked = [head for head in sorted(heads) if not any(key.startswith(f"{head}.") for key in found.stored)]
    if stacked:
        raise PeftError(
            f"task_type={task!r} makes PEFT ask for {stacked[0]}, a layer of a stack, which cannot be written alone; leave task_type out."
        )
    return written


def _add_module(found: Beside, tree: Tree, module: str, name: str | None = None, saved: Collection[str] = ()) -> None:
    """All parameters of a module; the config calls it by `name`, or by its own, which may mean others that are `saved`."""
    own = [path for path in tree.leaves if path.rpartition("/")[0] == module]
    torch_path = tree.names_of(module)
    if any(map(is_adapter_leaf, own)) or owner(f"{module}/x".lstrip("/")) in owners(tree.leaves):
        raise PeftError(f"{module} has an adapter and PEFT saves it whole; its format has one or the other.")
    if not torch_path:
        raise PeftError(
            f"{own[0]} is a parameter of the model itself, and PEFT saves modules by their names: leave it out, or name it by names_of=."
        )
    if "{}" in torch_path:
        raise PeftError(
            f"{module} is stacked and trains whole; PEFT's modules_to_save is written for single modules only."
        )
    for path in own:
        site, leaf = tree.site(path), path.rpartition("/")[2]
        parameter = tensors.parameter_name(site, leaf)
        if parameter is None:
            raise PeftError(
                f"{path} {tree.leaves[path].shape} is of a layer that has no counterpart in torch here; it cannot be saved."
            )
        value = tensors.parameter_to_torch(site, leaf, tree.leaves[path])
        modules = _with_output(tree, torch_path, site, path) if leaf in ("embedding", "kernel") else [torch_path]
        for each in modules:
            found.stored[f"{each}.{parameter}"] = value
            found.modules_to_save.add(name or names.saved_name(each, tree.every | {each}, saved))
        found.ensure_weight_tying |= len(modules) > 1


def _add_biases(found: Beside, tree: Tree, trained: set[str]) -> set[str]:
    found.bias, biases = _biases(trained, tree.leaves)
    adapted = owners(tree.leaves)
    for path in sorted(biases):
        inner = ".base_layer" if path.removesuffix("bias") in adapted else ""
        for torch_path, part in _unstacked(tree.leaves[path], tree.module(path)):
            found.stored[f"{torch_path}{inner}.bias"] = part
    return biases


def _biases(trained: set[str], leaves: Mapping[str, Any]) -> tuple[str, set[str]]:
    """PEFT's word for the biases that train, and which: "all", "lora_only" (those of adapted layers) or "none"."""
    whole = {path.rpartition("/")[0] for path in trained if path.rpartition("/")[2] != "bias"}  # modules_to_save
    biases = {path for path in leaves if path.rpartition("/")[2] == "bias"}
    every = {path for path in biases if path.rpartition("/")[0] not in whole}
    adapted = {path for path in every if owner(path) in owners(leaves)}
    if every and every <= trained:
        return "all", every
    return ("lora_only", adapted) if adapted and adapted <= trained else ("none", set())


def _unstacked(leaf: Any, torch_path: str):
    """(torch path, part) for each layer of a stack; the leaf itself where there is none."""
    array = np.asarray(leaf, np.float32)
    for index, path in names.spelt(torch_path, array.shape):
        yield path, array[index].reshape(-1)


def _require_whole(module: str, trained: set[str], leaves: Mapping[str, Any]) -> None:
    own = [path for path in leaves if path.rpartition("/")[0] == module]
    if any(map(is_adapter_leaf, own)):
        raise PeftError(f"{module} has an adapter and trains itself; PEFT's format has one or the other.")
    frozen = [path for path in own if path not in trained]
    if frozen:
        raise PeftError(
            f"{frozen[0]} does not train and the rest of {module} does; PEFT saves whole modules: train it all."
        )


def require_no_clash(saved: set[str], adapted: set[str]) -> None:
    """Raises PeftError where PEFT, which reads the names of saved modules as regular expressions, would take an adapted one for one of them."""
    for name in sorted(saved):
        taken = [path for path in sorted(adapted) if _takes(name, path)]
        if taken:
            raise PeftError(
                f"PEFT reads {name!r} of modules_to_save as a regular expression, which {taken[0]!r} matches, so that its adapter would be "
                "dropped: rename one of them by names_of=."
            )


def _takes(name: str, path: str) -> bool:
    try:
        return targeting.is_taken_by(name, path)
    except Exception as error:  # re.error, and what else `re` raises for what is no expression
        raise PeftError(
            f"PEFT reads the name {name!r} as a regular expression, and it is none: rename it by names_of=."
        ) from error
