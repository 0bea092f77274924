"""Which torch module a Flax module is: the hook for names, and a table of both sides with stacked layers spelled out."""

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lora_jax import axes
from lora_jax.errors import PeftError, closest
from lora_jax.leaves import is_adapter_leaf
from lora_jax.peft import fields
from lora_jax.products.places import kernel_at
from lora_jax.products.site import Site
from lora_jax.tree import opened

Names = Callable[[str], str]  # a Flax module's path -> the torch module's, with "{}" for the index of a stacked layer
PREFIX = "base_model.model."


def dotted(path: str) -> str:
    """The names of a model whose modules are called alike on both sides; the default.

    >>> dotted("bert/encoder/layer/0/attention/self/query")
    'bert.encoder.layer.0.attention.self.query'
    """
    return path.replace("/", ".")


def checked(names_of: Names) -> Names:
    """The hook, with a look at each name that it gives.

    The function returned raises PeftError for a name that is no str, or has braces other than "{}".
    """

    def name_of(path: str) -> str:
        name = names_of(path)
        if not isinstance(name, str) or re.search("[{}]", name.replace("{}", "")):
            raise PeftError(
                f"names_of= gives {name!r} for {path!r}; expected the name of a torch module, a str with {{}} for the index of "
                "a stacked layer and no other braces."
            )
        return name

    return name_of


def spelt(name: str, shape: Sequence[int]) -> Iterator[tuple[tuple[int, ...], str]]:
    """(index, torch path) of every layer of a stack; `shape` begins with its sizes.

    Raises:
      PeftError: when the name has more places for an index than there are axes.

    >>> list(spelt("layers.{}.norm", (2, 16)))
    [((0,), 'layers.0.norm'), ((1,), 'layers.1.norm')]
    """
    depth = name.count("{}")
    if depth > len(shape):
        raise PeftError(
            f"names_of= gives the name {name!r} to a parameter of shape {tuple(shape)}; expected a {{}} for each of its stacked axes only."
        )
    for index in itertools.product(*map(range, shape[:depth])):
        yield index, name.format(*index)


def named_by(place: str) -> str:
    """What a names hook is asked about an adapter: its module's path, or the path of a kernel of another name.

    >>> named_by("layer/query"), named_by("layer/q_einsum/w:oio")
    ('layer/query', 'layer/q_einsum/w')
    """
    told = axes.roles_in(f"{place}/")
    return place if told is None else told[0]


EXPERTS = "[{}]"  # ends the name of a parameter of torch that holds all experts, "experts.up[{}]"
PARAMETER = "[]"  # ends that of one that is a matrix of a module which is no Linear, "router.w[]"


def split(name: str) -> tuple[str, str]:
    """(torch path, mark of a parameter or "").

    >>> split("layers.{}.experts.up[{}]"), split("layers.{}.mlp")
    (('layers.{}.experts.up', '[{}]'), ('layers.{}.mlp', ''))
    """
    mark = next((mark for mark in (EXPERTS, PARAMETER) if name.endswith(mark)), "")
    return name.removesuffix(mark), mark


class Slot(NamedTuple):
    """Where a torch module's parameters lie in the Flax tree."""

    module: str  # the Flax module's path
    index: tuple[int, ...]  # of the layer within its stack, without that of an expert; () where there is none
    mark: str = ""  # that of a parameter: PEFT adapts it by target_parameters


def slots(modules: Mapping[str, tuple[int, ...]], names: Names) -> dict[str, Slot]:
    """torch path -> slot.

    Args:
      modules: Flax path -> the sizes of its stack, () for a single layer.
      names: the hook.

    Raises:
      PeftError: when a stacked layer's name has no place for its index, or two modules get one name.

    >>> slots({"layers/mlp": (2,)}, lambda path: "model.layers.{}.mlp")
    {'model.layers.0.mlp': Slot(module='layers/mlp', index=(0,), mark=''), 'model.layers.1.mlp': Slot(module='layers/mlp', index=(1,), mark='')}
    >>> slots({"up": (3,)}, lambda path: "experts.up[{}]")
    {'experts.up': Slot(module='up', index=(), mark='[{}]')}
    """
    found: dict[str, Slot] = {}
    for module, stack in modules.items():
        name = names(named_by(module))
        if name.count("{}") != len(stack):
            raise PeftError(
                f"{module} holds {stack or 'no'} stacked layers, and its torch name is {name!r}: it must have {len(stack)} {{}} for "
                "their index; pass names_of=, a function from Flax paths to such names, and give experts that share a factor their own by "
                "LoRAConfig(roles=...)."
            )
        name, mark = split(name)
        for index, torch_path in spelt(name, stack):
            if not torch_path:
                raise PeftError(
                    "the layer is the model itself, and PEFT needs a name for it: pass names_of=, a function from paths to names."
                )
            if torch_path in found:
                raise PeftError(f"names_of= calls both {found[torch_path].module} and {module} {torch_path!r}.")
            if mark and "." not in torch_path:
                raise PeftError(
                    f"names_of= gives {module} the name {name + mark!r}; PEFT needs the module that holds such a parameter before it."
                )
            found[torch_path] = Slot(module, index, mark)
    return found


def stacks(layout: Mapping[str, Site], leaves: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Flax path -> sizes of its stack, for every layer that LoRA could adapt.

    Raises:
      PeftError: for a layout of another model than the flat tree `leaves`.
    """
    found = {}
    for path, site in layout.items():
        kernel = kernel_at(path, site.leaf)
        if kernel not in leaves:
            raise PeftError(
                f"the layout has {path!r} and the parameters have no {kernel}; closest: {closest(kernel, leaves)}."
            )
        found[path] = axes.sizes(tuple(opened(leaves[kernel]).shape), site.roles)["s"]
    return found


def universe(leaves: Mapping[str, Any], names_of: Names) -> set[str]:
    """The torch paths of all modules that the flat tree has parameters of, and of those that contain them."""
    found: set[str] = set()
    for path, leaf in leaves.items():
        if is_adapter_leaf(path):
            continue
        name, mark = split(names_of(path.rpartition("/")[0]))
        for _, torch_path in spelt(name, opened(leaf).shape):
            parts = torch_path.split(".")[: -1 if mark else None]
            found |= {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
    return found - {""}


def selection(chosen: set[str], every: set[str]) -> list[str] | str:
    """What PEFT's target_modules must say to select `chosen` among `every`: the shortest endings, or a regex where none would do.

    >>> selection({"a.0.query", "a.1.query"}, {"a.0.query", "a.1.query", "a.0.key"})
    ['query']
    >>> selection({"dense"}, {"dense", "block.dense"})
    'dense'
    """
    found = set()
    for path in chosen:
        parts = path.split(".")
        endings = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
        ending = next(
            (ending for ending in endings if _ending_in(f".{ending}", every) | {ending} & every <= chosen), None
        )
        if ending is None:
            return "|".join(re.escape(path) for path in sorted(chosen))
        found.add(ending)
    return sorted(found)


def saved_name(path: str, every: set[str], saved: Collection[str] = ()) -> str:
    """What PEFT's modules_to_save must say for one module: it goes by the last letters of names, whatever stands before them.

    Args:
      saved: modules that are saved as well, so that the name may mean them, too.

    Raises:
      PeftError: when another module's name ends so too.

    >>> saved_name("classifier", {"classifier", "pre_classifier"}, {"pre_classifier"})
    'classifier'
    """
    parts = path.split(".")
    for n in range(1, len(parts) + 1):
        ending = ".".join(parts[-n:])
        if _ending_in(ending, every) == {path}:
            return ending
    others = sorted(_ending_in(path, every) - {path, *saved})
    if not others:
        return path
    raise PeftError(
        f"PEFT saves modules by the ends of their names, and {others[0]!r} ends like {path!r}: rename one of them by names_of=."
    )


def pattern(path: str, among: Iterable[str]) -> str:
    """A key of rank_pattern or alpha_pattern that means this module alone: PEFT matches keys, as regular expressions, at the end of paths.

    >>> pattern("dense", ["dense", "block.dense"]), pattern("block.dense", ["dense", "block.dense"])
    ('^dense', 'block.dense')
    >>> pattern("block+.dense", ["block+.dense"])
    'block\\\\+\\\\.dense'
    """
    others = set(among) - {path}
    keys = (path, re.escape(path), f"^{path}", f"^{re.escape(path)}")
    return next(key for key in keys if _means(key, path) and not any(_means(key, other) for other in others))


def _means(key: str, path: str) -> bool:
    try:
        return re.match(fields.KEY_OF_PATTERN.format(key), path) is not None
    except re.error:
        return False


def _ending_in(ending: str, paths: set[str]) -> set[str]:
    return {path for path in paths if path.endswith(ending)}
