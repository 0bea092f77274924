"""Are trees of any shape, keys and leaves refused, or made into what plain numpy makes of them?"""

import copy
import warnings

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

import lora_jax
from lora_jax import checkpoint
from tests.fuzz.judge import fuzzed, identical, judged
from tests.fuzz.strategies import ANYTHING, NAMES

A, B, SCALE = "lora_a", "lora_b", "lora_scale"
PLAIN_KEYS = st.sampled_from(["kernel", "embedding", "bias", "head", A, B, SCALE, "layer/0", "a%2Fb", "0", "lora_c"])
SHAPES = st.lists(st.integers(0, 3), max_size=3)
DTYPES = st.sampled_from([np.float32, np.float64, np.float16, jnp.bfloat16, np.int32, np.bool_, np.complex64])


def cast(array, dtype):
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(array).astype(dtype)


ARRAYS = st.builds(
    lambda shape, dtype, fill: cast(np.full(shape, fill), dtype),
    SHAPES,
    DTYPES,
    st.sampled_from([0, 1, 2.5, np.nan, np.inf]),
)
LEAVES = (
    ARRAYS
    | ARRAYS.map(jnp.asarray)
    | st.sampled_from([jax.ShapeDtypeStruct((2,), np.float32), jax.random.key(0)])
    | ANYTHING
)
TREES = st.recursive(
    LEAVES, lambda inner: st.dictionaries(PLAIN_KEYS | NAMES | st.integers(0, 2), inner, max_size=3), max_leaves=6
)


def whole():
    """Two adapted layers, one of them stacked, and a plain one."""
    draw = np.random.default_rng(0)

    def of(*shape):
        return draw.normal(size=shape).astype(np.float32)

    one = {
        "kernel": of(3, 2),
        "bias": of(2),
        A: of(3, 2),
        B: of(2, 2),
        SCALE: np.float32(0.5) * np.ones((), np.float32),
    }
    stack = {"kernel": of(2, 3, 4), A: of(2, 3, 1), B: of(2, 1, 4), SCALE: of(2)}
    return {"one": one, "deep": {"stack": stack}, "head": {"kernel": of(2, 2)}}


WHOLE = whole()
PLACES = (
    [("one", name) for name in WHOLE["one"]]
    + [("deep", "stack", name) for name in WHOLE["deep"]["stack"]]
    + [("head", "kernel")]
)
PLACES += [("one",), ("deep",), ("deep", "stack")]


def flat(tree, path=()):
    if not isinstance(tree, dict):
        return {path: tree}
    return {p: leaf for key, inner in tree.items() for p, leaf in flat(inner, (*path, key)).items()}


def is_part(key, value):
    """Whether it is a part of an adapter, and no module that is called like one."""
    return key in (A, B, SCALE) and not isinstance(value, dict)


def merged(tree):
    """W + scale a b by numpy, and the tree without its adapters."""
    if not isinstance(tree, dict):
        return tree
    found = {key: merged(inner) for key, inner in tree.items() if not is_part(key, inner)}
    if A in tree and is_part(A, tree[A]):
        name = "kernel" if "kernel" in tree else "embedding"
        update = cast(tree[SCALE], np.float64)[..., None, None] * (
            cast(tree[A], np.float64) @ cast(tree[B], np.float64)
        )
        found[name] = np.asarray(cast(tree[name], np.float64) + update.reshape(np.shape(tree[name])))
    return found


def close(found, expected):
    one, other = flat(found), flat(expected)
    return one.keys() == other.keys() and all(
        one[path] is other[path] or are_close(one[path], other[path]) for path in one
    )


def are_close(one, other):
    one, other = cast(one, np.complex128), cast(other, np.complex128)
    return one.shape == other.shape and np.allclose(one, other, rtol=0.02, atol=1e-3, equal_nan=True)


def without_adapters(tree):
    return {k: without_adapters(v) for k, v in tree.items() if not is_part(k, v)} if isinstance(tree, dict) else tree


def parts(tree):
    """The tree, taken apart and put together again."""
    frozen, trainable = lora_jax.partition(tree, lora_jax.trainable_mask(tree))
    return lora_jax.combine(frozen, trainable)


def numbers_of(tree):
    return checkpoint.fingerprint(tree), lora_jax.report(tree).__str__()


@fuzzed(0.03, tree=TREES)
def test_trees_of_anything(tree):
    judged("trees", lambda: parts(tree), tree, same=is_same_tree, of=tree)
    judged(
        "trees",
        lambda: lora_jax.strip(tree),
        same=lambda found, _: is_same_tree(found, without_adapters(tree)),
        of=tree,
    )


def is_same_tree(found, expected):
    one, other = flat(found), flat(expected)
    return (
        one.keys() <= other.keys()
        and all(one[path] is other[path] or identical(one[path], other[path]) for path in one)
        and all(isinstance(leaf, dict) or path in one for path, leaf in other.items())
    )


@st.composite
def broken_trees(draw):
    """A whole tree, a part of which is another, missing, or under another name."""
    tree, path = copy.deepcopy(WHOLE), draw(st.sampled_from(PLACES))
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    leaf, way = inner.pop(path[-1]), draw(st.sampled_from(["missing", "named", "other", "shape", "dtype", "value"]))
    array = leaf if isinstance(leaf, np.ndarray) else np.ones(2, np.float32)
    if way == "named":
        inner[draw(PLAIN_KEYS | NAMES)] = leaf
    elif way == "other":
        inner[path[-1]] = draw(LEAVES)
    elif way == "shape":
        inner[path[-1]] = draw(
            st.sampled_from([array.T, array[None], array.reshape(-1), array[..., :0] if array.ndim else array[None]])
        )
    elif way == "dtype":
        inner[path[-1]] = cast(array, draw(DTYPES))
    elif way == "value":
        inner[path[-1]] = np.full_like(array, draw(st.sampled_from([np.nan, np.inf, 1e30, 0])))
    return tree


@fuzzed(0.05, tree=broken_trees())
def test_an_adapted_tree_of_which_a_part_is_another(tree):
    with np.errstate(all="ignore"):
        judged("trees (merge)", lambda: lora_jax.merge(tree), same=lambda found, _: close(found, merged(tree)), of=tree)
    judged("trees (parts)", lambda: parts(tree), tree, same=is_same_tree, of=tree)
    judged(
        "trees (scaled)", lambda: lora_jax.scaled(tree, 2.0), same=lambda found, _: close(found, doubled(tree)), of=tree
    )
    judged("trees (report)", lambda: str(lora_jax.report(tree)), same=lambda found, _: bool(found), of=tree)


def doubled(tree):
    return {k: doubled(v) if isinstance(v, dict) else np.asarray(v) * 2 if k == SCALE else v for k, v in tree.items()}
