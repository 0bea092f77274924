"""Meshes: a sweep's members, batches and the frozen base laid out over any number of devices, of one process or several.

A mesh has three axes, in this order, of which any may be 1 long: "members" (runs of a sweep, which never meet), "data" (rows of a batch;
gradients of the trainable tree are summed over it) and "model" (FSDP-style: each device holds a part of every large kernel, and adapters lie
as their kernels do). JAX's partitioner puts the communication in; nothing here sends anything itself.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lora_jax.errors import MeshError
from lora_jax.intake import tree_of
from lora_jax.leaves import KERNELS, MAGNITUDE, NORM, is_adapter_leaf, name_of
from lora_jax.scalars import integer
from lora_jax.tree import Params, flat, nested

MEMBERS, DATA, MODEL = AXES = ("members", "data", "model")


def make(
    *, members: int = 1, data: int = 1, model: int = 1, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
    """A mesh of all devices, of every process.

    Raises:
      MeshError: when the product of the sizes is not the number of devices.

    >>> make(members=jax.device_count()).shape["data"]
    1
    """
    devices, sizes = jax.devices() if devices is None else devices, (members, data, model)
    asked = " x ".join(f"{name} {size}" for name, size in zip(AXES, sizes, strict=True))
    if any(integer(size) is None or integer(size) < 1 for size in sizes):
        raise MeshError(f"a mesh of {asked} has a size that is no integer of at least 1.")
    if math.prod(sizes) != len(devices):
        raise MeshError(
            f"a mesh of {asked} needs {math.prod(sizes)} devices and JAX has {len(devices)}; choose sizes whose product is {len(devices)}."
        )
    return jax.sharding.Mesh(np.asarray(devices).reshape(sizes), AXES)


def sharing_members(mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh | None) -> int:
    """How many devices, or groups of them, share a sweep's members; without a mesh, all there are.

    >>> sharing_members(None) == jax.device_count()
    True
    """
    return jax.device_count() if mesh is None else size_of(mesh, MEMBERS)


def size_of(mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh, axis: str) -> int:
    """The size of one of our axes.

    Raises:
      MeshError: where the mesh has no such axis.

    >>> size_of(make(data=jax.device_count()), "model")
    1
    """
    if axis not in mesh.shape:
        raise MeshError(
            f"the mesh has the axes {', '.join(map(repr, mesh.shape)) or '(none)'}, and {axis!r} is asked for; make it by lora_jax.mesh.make, or lay "
            "arrays on yours by jax.device_put and call without mesh=."
        )
    return mesh.shape[axis]


def specs(params: Params, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> dict[str, Any]:
    """A tree like `params` of PartitionSpecs: kernels over the model axis, adapters as their kernels lie, all else on every device.

    A kernel is cut along its largest axis that the model axis divides (the last of equal ones). So one that widens is cut by outputs and
    one that narrows by inputs, and between the two nothing needs to move (Shoeybi et al. 2019, arXiv:1909.08053, section 3).

    >>> mesh = jax.sharding.AbstractMesh((1, 1, 4), AXES)
    >>> dense = {"kernel": np.ones((8, 16)), "bias": np.ones(16), "lora_a": np.ones((8, 2)), "lora_b": np.ones((2, 16))}
    >>> {name: tuple(spec) for name, spec in specs(dense, mesh).items()}
    {'kernel': (None, 'model'), 'bias': (), 'lora_a': (), 'lora_b': (None, 'model')}
    """
    leaves, size = tree_of(params, "mesh: params"), size_of(mesh, MODEL)
    found = {}
    for path, leaf in leaves.items():
        module = path.removesuffix(name_of(path))
        kernel = next((np.shape(leaves[module + name]) for name in KERNELS if module + name in leaves), ())
        cut = _cut_axis(kernel, size)
        axis = cut if name_of(path) in KERNELS else None
        if is_adapter_leaf(path) and cut is not None:
            axis = _follows(name_of(path), np.shape(leaf), kernel, cut)
        found[path] = _along(axis, len(np.shape(leaf)))
    return nested(found)


def _cut_axis(kernel: tuple[int, ...], size: int) -> int | None:
    """The axis of a kernel that the model axis cuts; None where none can be, or there is nothing to cut."""
    able = [axis for axis, length in enumerate(kernel) if size > 1 and length % size == 0]
    return max(able, key=lambda axis: (kernel[axis], axis), default=None)


def _follows(name: str, shape: tuple[int, ...], kernel: tuple[int, ...], cut: int) -> int | None:
    """The axis of an adapter leaf that lies along the kernel's axis `cut`; None where it has no such axis."""
    if name in (MAGNITUDE, NORM):  # of the kernel's shape, with 1 on the axes that are summed over
        return cut if shape[cut] == kernel[cut] else None
    if len(shape) < 2:
        return None
    stacked = len(shape) - 2
    inputs = name.endswith("_a")
    width = shape[-2] if inputs else shape[-1]
    # The first axis of a group is the one whose parts lie together in the flattened factor.
    for at in range(stacked + 1, len(kernel)):
        if inputs and math.prod(kernel[stacked:at]) == width and cut == stacked:
            return len(shape) - 2
        if not inputs and math.prod(kernel[at:]) == width and cut == at:
            return len(shape) - 1
    return None


def _along(axis: int | None, ndim: int) -> jax.P:
    return jax.P() if axis is None else jax.P(*[MODEL if i == axis else None for i in range(ndim)][: axis + 1])


def place(params: Params, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """The tree laid out as `specs` says. In several processes each gives the same values and keeps its own part.

    >>> place({"kernel": np.ones((4, 8))}, make(model=jax.device_count()))["kernel"].shape
    (4, 8)
    """
    where = flat(specs(params, mesh))
    return nested({path: put(leaf, mesh, where[path]) for path, leaf in flat(params).items()})


def put(tree: Any, mesh: jax.sharding.Mesh, spec: jax.P = jax.P()) -> Any:
    """Every leaf on the mesh under one spec; by default whole on every device.

    >>> put(np.ones(3), make(data=jax.device_count())).is_fully_replicated
    True
    """
    sharding = jax.sharding.NamedSharding(mesh, spec)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: _own_part(leaf, sharding), tree)


def _own_part(leaf: Any, sharding: jax.sharding.NamedSharding) -> jax.Array:
    """A global array of which this process gives what its own devices hold."""
    if is_key(leaf):
        return jax.random.wrap_key_data(_own_part(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    value = fetch(leaf)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def fetch(tree: Any) -> Any:
    """Every leaf whole, as numpy; all processes call it together, and all have the values. PRNG keys come as their words.

    >>> fetch({"a": jax.numpy.ones(2)})["a"].tolist()
    [1.0, 1.0]
    """
    return jax.tree.map(_fetch, tree)


def _fetch(leaf: Any) -> np.ndarray:
    leaf = jax.random.key_data(leaf) if is_key(leaf) else leaf
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return multihost_utils.process_allgather(leaf, tiled=True)


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of typed PRNG keys.

    >>> is_key(jax.random.key(0)), is_key(jax.random.key_data(jax.random.key(0)))
    (True, False)
    """
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def cut(tree: Any, mesh: jax.sharding.Mesh | None, axis: int) -> Any:
    """Under trace: every leaf's `axis` runs over the data axis of the mesh; without a mesh, as it is.

    >>> cut(np.ones(3), None, 0).shape
    (3,)
    """
    if mesh is None or size_of(mesh, DATA) == 1:
        return tree
    sharding = jax.sharding.NamedSharding(mesh, jax.P(*[None] * axis, DATA))
    return jax.lax.with_sharding_constraint(tree, sharding)


def parse(text: str) -> Mapping[str, int]:
    """`members:4,data:2` as sizes by axis.

    Raises:
      MeshError: for another axis, one that is named twice, or a size that is no positive integer.

    >>> parse("members:4,data:2")
    {'members': 4, 'data': 2}
    """
    sizes: dict[str, int] = {}
    for item in text.split(","):
        name, _, size = item.strip().partition(":")
        if name not in AXES or name in sizes or not size.isdecimal() or int(size) < 1:
            raise MeshError(
                f"{item.strip()!r} is no part of a mesh; give sizes of {', '.join(AXES)}, each once, as in members:4,data:2."
            )
        sizes[name] = int(size)
    return sizes
