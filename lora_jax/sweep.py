"""Many adapters, one program: ranks x alphas x learning rates x seeds trained over one base.

Ranks are padded with zeros to the largest (`lowrank.pad_rank` says why this is exact); scales and learning rates are
data. So all members have one shape, and one compiled program trains them.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lora_jax import mesh as meshes
from lora_jax import starts, targets, training
from lora_jax.adapter import adapter_of
from lora_jax.config import LoRAConfig
from lora_jax.elementwise import require_elementwise
from lora_jax.errors import ConfigError, TreeError
from lora_jax.leaves import PARTNER, A, B, name_of
from lora_jax.lowrank import pad_rank
from lora_jax.mesh import MEMBERS
from lora_jax.partition import Mask, combine, partition
from lora_jax.tree import Params, flat, nested

# Measured by experiments/benchmark.py on a CPU with small MLPs over one base, where one wide product beats many narrow ones
# (BUILD_NOTES.md); for accelerators from design, not yet measured.
DEFAULT_STRATEGY = {"cpu": "vmap", "gpu": "vmap", "tpu": "vmap"}
STRATEGIES = ("auto", "vmap", "sequential")


class Member(NamedTuple):
    """One run of a sweep. `alpha` None means the config's.

    >>> Member(rank=8, alpha=None, learning_rate=1e-3, seed=0).rank
    8
    """

    rank: int
    alpha: float | None
    learning_rate: float
    seed: int


def grid(
    *,
    ranks: Sequence[int],
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    alphas: Sequence[float | None] = (None,),
) -> list[Member]:
    """Every combination, seeds fastest.

    >>> len(grid(ranks=(1, 2), learning_rates=(1e-3,), seeds=range(3)))
    6
    """
    return [Member(*values) for values in itertools.product(ranks, alphas, learning_rates, seeds)]


class SweepState(NamedTuple):
    """M runs at once; every leaf has a leading axis [M]. `own` are frozen leaves that differ between members."""

    train: training.TrainState
    own: Params
    learning_rate: jax.Array  # [M] float32


def init_adapters(
    model: Any, members: Sequence[Member], *args: Any, base_params: Params | None = None, **kwargs: Any
) -> dict:
    """The members' fresh adapters, stacked [M, ...] and padded to the largest rank.

    Member m equals `adapt(jax.random.key(m.seed), base, LoRA(base_module, config with m.rank and m.alpha), *args)`,
    up to the padding. One compiled program draws all of them.

    Args:
      model: the LoRA wrapper, of `lora_jax` or `lora_jax.nnx`.
      *args, **kwargs: an example input, as for `model.init`.
      base_params: the base, for configs whose adapters begin with something of it (DoRA, PiSSA, OLoRA).

    Raises:
      ConfigError: when there are no members, or such a config has no base.

    >>> import flax.linen as nn
    >>> from lora_jax import LoRA
    >>> model = LoRA(nn.Dense(4), LoRAConfig(rank=2, targets="*"))
    >>> stacked = init_adapters(model, grid(ranks=(1, 3), learning_rates=(1e-3,), seeds=(0, 1)), jnp.ones((1, 5)))
    >>> {name: leaf.shape for name, leaf in stacked.items()}
    {'lora_a': (4, 5, 3), 'lora_b': (4, 3, 4), 'lora_scale': (4,)}
    """
    if not members:
        raise ConfigError("the sweep has no members; sweep.grid makes some.")
    if base_params is None and starts.reads_base(model.config):
        raise ConfigError("these adapters begin at the base's kernels: pass init_adapters(..., base_params=...).")
    base = None if base_params is None else flat(base_params)
    groups = _by_config(model, members)

    @jax.jit
    def draw(keys: dict):
        drawn = [_draw_group(model.with_config(config), base, keys[i], args, kwargs) for i, config in enumerate(groups)]
        ranks = {path: max(tree[path].shape[-1] for tree in drawn) for path in drawn[0] if name_of(path) in PARTNER}
        padded = [_pad(tree, ranks) for tree in drawn]
        return {path: jnp.concatenate([tree[path] for tree in padded])[order] for path in padded[0]}

    keys = {i: jax.vmap(jax.random.key)(_seeds(members, where)) for i, where in enumerate(groups.values())}
    order = np.argsort(np.concatenate(list(groups.values())))  # from grouped back to the members' order
    return nested(draw(keys))


def _by_config(model: Any, members: Sequence[Member]) -> dict:
    """config -> positions of its members."""
    groups: dict = {}
    for position, member in enumerate(members):
        groups.setdefault(_config_of(model, member), []).append(position)
    return groups


def _config_of(model: Any, member: Member) -> LoRAConfig:
    alpha = model.config.alpha if member.alpha is None else member.alpha
    return dataclasses.replace(model.config, rank=member.rank, alpha=alpha)


def _seeds(members: Sequence[Member], where: Sequence[int]) -> jax.Array:
    return jnp.asarray([members[i].seed for i in where], jnp.uint32)


def _draw_group(model: Any, base: dict | None, keys: jax.Array, args, kwargs) -> dict[str, jax.Array]:
    def draw(key):
        fresh = flat(adapter_of(model.init(key, *args, **kwargs)["params"]))
        return fresh if base is None else starts.onto(model.config, fresh, base)

    return jax.lax.map(draw, keys)  # XLA takes half as long to compile it as a vmap of random draws


def _pad(leaves: dict[str, jax.Array], ranks: dict[str, int]) -> dict[str, jax.Array]:
    """Every pair of factors, and of those that they began as, with as many columns and rows as the widest."""
    padded = dict(leaves)
    for path in ranks:
        other = path.removesuffix(name_of(path)) + PARTNER[name_of(path)]
        padded[path], padded[other] = pad_rank(leaves[path], leaves[other], ranks[path])
    return padded


@functools.partial(jax.jit, static_argnames="members")  # one program, not one per leaf
def broadcast(tree: Params, members: int) -> Params:
    """M copies of a tree, e.g. of a base that every member fine-tunes in full.

    >>> broadcast({"kernel": jnp.ones((2, 3))}, members=4)["kernel"].shape
    (4, 2, 3)
    """
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (members, *leaf.shape)), tree)


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
    """Trains M members in one compiled program per phase.

    Args:
      loss_fn: as in `lora_jax.training`.
      optimizer: `learning_rate [] -> optax transformation`; called under trace, with each member's own rate.
      strategy: "vmap" (members together), "sequential" (one after another inside the program) or "auto" (the
        measured default of the platform).
      mesh: of `lora_jax.mesh.make`; its axis "members" shares the members out, "data" the rows of each member's batches, and "model" a
        base laid by `lora_jax.mesh.place`. None is every device for members. Members that do not divide evenly stay together on one device
        (`filled` makes them even).

    Raises:
      ConfigError: for an unknown strategy.

    >>> def loss_fn(params, batch, key):
    ...     return jnp.mean((batch * params["w"] - 1) ** 2), None
    >>> trainer = Sweep(loss_fn, optax.sgd)
    >>> state = trainer.start({"w": jnp.zeros(2)}, {"w": True}, learning_rates=(0.25, 0.5), seeds=(0, 0), padded=False)
    >>> state, (losses, _) = trainer.run(state, {}, jnp.ones(4), jnp.zeros((3, 1), jnp.int32))
    >>> losses.tolist(), len(trainer.traces)
    ([[1.0, 0.25, 0.0625], [1.0, 0.0, 0.0]], 1)
    """

    loss_fn: training.LossFn
    optimizer: Callable[[jax.Array], optax.GradientTransformation]
    strategy: str = "auto"
    mesh: jax.sharding.Mesh | None = None
    traces: list[str] = dataclasses.field(default_factory=list)  # one entry per trace of `run`

    def __post_init__(self):
        if self.strategy not in STRATEGIES:
            raise ConfigError(f"strategy is {self.strategy!r}; it must be one of {', '.join(STRATEGIES)}.")

    def start(
        self, stacked: Params, mask: Mask, *, learning_rates: Sequence[float], seeds: Sequence[int], padded: bool = True
    ) -> SweepState:
        """The state before the first step.

        Args:
          stacked: what differs between members, leaves [M, ...]: adapters from `init_adapters`, with heads or a whole
            base from `broadcast`.
          mask: which of these leaves train; `trainable_mask(stacked, ...)`.
          learning_rates, seeds: M each; the seed names the stream of dropout keys.
          padded: whether ranks may be padded, so that the optimiser must be element-wise.

        Raises:
          OptimizerError: when padding would change what the optimiser does (Adafactor, Muon, Shampoo ...).
          TreeError: when leaves, learning rates and seeds speak of different numbers of members.

        >>> trainer = Sweep(lambda params, batch, key: (params["w"] * batch, None), optax.sgd)
        >>> state = trainer.start({"w": jnp.zeros(2)}, {"w": True}, learning_rates=(0.1, 0.2), seeds=(0, 1), padded=False)
        >>> state.learning_rate.shape
        (2,)
        """
        if padded:
            require_elementwise(self.optimizer)
        own, trainable = partition(stacked, mask)
        own = jax.tree.map(jnp.array, own)  # copied, as the state is donated; init_state copies the trainable leaves
        rates = jnp.asarray(learning_rates, jnp.float32)
        keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
        sizes = {leaf.shape[0] for leaf in jax.tree.leaves(stacked)} | {len(rates), len(keys)}
        if len(sizes) > 1:
            raise TreeError(f"the members' leaves, learning rates and seeds disagree on their number: {sorted(sizes)}.")
        train = jax.vmap(lambda t, rate, key: training.init_state(t, self.optimizer(rate), key))(trainable, rates, keys)
        return self._spread(SweepState(train, own, rates))

    def filled(self, state: SweepState) -> SweepState:
        """The state with its last member again until the devices share the members evenly, and each device's members laid on it.

        `first` takes the members alone out of it again.

        >>> trainer = Sweep(lambda params, batch, key: (params["w"] * batch, None), optax.sgd)
        >>> state = trainer.start({"w": jnp.zeros(2)}, {"w": True}, learning_rates=(0.1, 0.2), seeds=(0, 1), padded=False)
        >>> len(trainer.filled(state).learning_rate) % jax.device_count()
        0
        """
        devices = jax.device_count() if self.mesh is None else self.mesh.shape[MEMBERS]
        return self._spread(fill(state, len(state.learning_rate) + -len(state.learning_rate) % devices))

    def share(self, tree: Any, state: SweepState) -> Any:
        """What all members share (the base, data), whole on every device that `state` lies on; leaves already laid there stay as they are.

        Only several processes need it done by hand, where an array of one process is none that all of them hold.

        >>> trainer = Sweep(lambda params, batch, key: (params["w"] * batch, None), optax.sgd)
        >>> state = trainer.start({"w": jnp.zeros(2)}, {"w": True}, learning_rates=(0.1, 0.2), seeds=(0, 1), padded=False)
        >>> trainer.share(jnp.ones(3), state).shape
        (3,)
        """
        mesh = self._mesh_of(state)
        if mesh is None:
            return tree
        devices = set(mesh.devices.flat)
        return jax.tree.map(lambda leaf: leaf if _lies_on(leaf, devices) else meshes.put(leaf, mesh), tree)

    @functools.cached_property
    def run(self) -> Callable:
        """`run(state, shared, data, order) -> (state, (losses [M, S], metrics [M, S, ...]))`, jitted, state donated.

        `shared` is the base, the same for all; `order` is [S, B] for all or [M, S, B] with one per member.
        """

        def some(state: SweepState, shared: Params, data: Any, order: jax.Array):
            def member(train, own, rate, order):
                step = training.make_step(self.loss_fn, self.optimizer(rate))
                return training.scan_steps(step, train, combine(shared, own), data, order)

            train, metrics = self._map(member, order.ndim == 3)(state.train, state.own, state.learning_rate, order)
            return SweepState(train, state.own, state.learning_rate), metrics

        def run(state: SweepState, shared: Params, data: Any, order: jax.Array):
            self.traces.append(f"members={len(state.learning_rate)} order={order.shape}")
            order = meshes.cut(order, self._mesh_of(state), order.ndim - 1)
            state, metrics = self._over_devices(
                some, state, shared, data, order, by_member=(True, False, False, order.ndim == 3)
            )
            return self._laid(
                state, state, jax.P(MEMBERS)
            ), metrics  # as `_spread` laid it, or a second call would compile again

        return jax.jit(run, donate_argnums=0)

    def evaluation(self, metric_fn: Callable, batch_size: int) -> Callable:
        """`evaluate(state, shared, data) -> sums [M, ...]`, jitted; see `training.make_evaluation`. Every process has all of the sums.

        >>> trainer = Sweep(lambda params, batch, key: (params["w"] * batch, None), optax.sgd)
        >>> state = trainer.start({"w": jnp.arange(2.0)}, {"w": True}, learning_rates=(0.1, 0.2), seeds=(0, 1), padded=False)
        >>> trainer.evaluation(lambda params, batch: {"sum": params["w"] * batch}, 2)(state, {}, jnp.ones(3))["sum"].tolist()
        [0.0, 3.0]
        """
        evaluate_one = training.make_evaluation(metric_fn, batch_size)

        def some(state: SweepState, shared: Params, data: Any):
            def member(train, own, rate, _):
                return evaluate_one(combine(shared, own, train.trainable), data)

            return self._map(member, False)(state.train, state.own, state.learning_rate, None)

        def evaluate(state: SweepState, *args: Any):
            sums = self._over_devices(some, state, *args, by_member=(True, False, False))
            return self._laid(sums, state, jax.P())

        return jax.jit(evaluate)

    def _mesh_of(self, state: SweepState) -> jax.sharding.Mesh | None:
        """The mesh that the members lie on; None where they do not divide evenly, or there is one device."""
        mesh = meshes.make(members=jax.device_count()) if self.mesh is None else self.mesh
        return None if mesh.size == 1 or len(state.learning_rate) % mesh.shape[MEMBERS] else mesh

    def _laid(self, tree: Any, state: SweepState, spec: jax.P) -> Any:
        """Under trace: `tree` under one spec of the mesh that `state` lies on."""
        mesh = self._mesh_of(state)
        return tree if mesh is None else jax.lax.with_sharding_constraint(tree, jax.sharding.NamedSharding(mesh, spec))

    def _spread(self, state: SweepState) -> SweepState:
        """Each device's members laid on it, as `run` leaves them: a first call that finds them elsewhere would compile twice."""
        mesh = self._mesh_of(state)
        return state if mesh is None else meshes.put(state, mesh, jax.P(MEMBERS))

    def _over_devices(self, fn: Callable, state: SweepState, *args: Any, by_member: tuple[bool, ...]) -> Any:
        """`fn(state, *args)`, each device with its share of the members.

        Members never meet, so the program has no communication between them. `by_member` says which arguments have a leading axis [M]. The
        axes "data" and "model" are left to JAX's partitioner.
        """
        mesh = self._mesh_of(state)
        if mesh is None:
            return fn(state, *args)
        specs = tuple(jax.P(MEMBERS) if split else jax.P() for split in by_member)
        return jax.shard_map(
            fn, mesh=mesh, in_specs=specs, out_specs=jax.P(MEMBERS), axis_names={MEMBERS}, check_vma=False
        )(state, *args)

    def _map(self, member: Callable, order_per_member: bool) -> Callable:
        """`member` over the leading axis of its arguments; the last one may be shared."""
        strategy = DEFAULT_STRATEGY.get(jax.default_backend(), "vmap") if self.strategy == "auto" else self.strategy
        if strategy == "vmap":
            return jax.vmap(member, in_axes=(0, 0, 0, 0 if order_per_member else None))
        if order_per_member:
            return lambda *args: jax.lax.map(lambda each: member(*each), args)
        return lambda *args: jax.lax.map(lambda each: member(*each, args[-1]), args[:-1])


def _lies_on(leaf: Any, devices: set) -> bool:
    return isinstance(leaf, jax.Array) and leaf.sharding.device_set == devices


def even(members: Sequence[Member], devices: int) -> list[Member]:
    """The members, and the last one again until `devices` share them evenly.

    >>> len(even(grid(ranks=(1, 2, 3), learning_rates=(1e-3,), seeds=(0,)), devices=2))
    4
    """
    return [*members, *[members[-1]] * (-len(members) % devices)]


def fill(tree: Any, members: int) -> Any:
    """Leaves [M, ...] with the last entry again until there are `members`.

    >>> fill(jnp.arange(3), 5).tolist()
    [0, 1, 2, 2, 2]
    """

    def longer(leaf):
        missing = members - leaf.shape[0]
        return leaf if not missing else jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)])

    return jax.tree.map(longer, tree)


def first(tree: Any, members: int) -> Any:
    """The first members of leaves [M, ...], whole on every device and in every process.

    >>> first(jnp.arange(3), 2).tolist()
    [0, 1]
    """
    return _everywhere(tree, lambda leaf: leaf[:members])


def _everywhere(tree: Any, pick: Callable) -> Any:
    """`pick` of every leaf; of one that is spread over processes, so that each has all of it."""

    def one(leaf):
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return pick(leaf)
        everywhere = jax.sharding.NamedSharding(leaf.sharding.mesh, jax.P())
        return jax.jit(pick, out_shardings=everywhere)(leaf)

    return jax.tree.map(one, tree)


def member_params(state: SweepState, shared: Params, index: int) -> dict:
    """The whole parameter tree of one member, adapters still padded.

    >>> trainer = Sweep(lambda params, batch, key: (params["w"], None), optax.sgd)
    >>> state = trainer.start({"w": jnp.array([1.0, 2.0])}, {"w": True}, learning_rates=(0.1, 0.1), seeds=(0, 1), padded=False)
    >>> {name: float(leaf) for name, leaf in member_params(state, {"base": jnp.ones(())}, 1).items()}
    {'base': 1.0, 'w': 2.0}
    """
    own, trainable = _everywhere((state.own, state.train.trainable), lambda leaf: leaf[index])
    return combine(shared, own, trainable)


def is_padding(model: Any, stacked: Params, members: Sequence[Member]) -> dict:
    """True where an entry of a stacked adapter is padding; after training these entries are still zero.

    >>> import flax.linen as nn
    >>> from lora_jax import LoRA
    >>> model, members = LoRA(nn.Dense(4), LoRAConfig(rank=2, targets="*")), grid(ranks=(1, 2), learning_rates=(1e-3,), seeds=(0,))
    >>> is_padding(model, init_adapters(model, members, jnp.ones((1, 1))), members)["lora_a"].tolist()
    [[[False, True]], [[False, False]]]
    """
    configs = [_config_of(model, member) for member in members]

    def padding(path: str, leaf: jax.Array) -> np.ndarray:
        module = path.rpartition("/")[0]
        ranks = np.asarray([targets.rank_and_alpha(config, module)[0] for config in configs])
        axis = -1 if path.endswith(A) else -2
        column = np.arange(leaf.shape[axis]).reshape(-1, *[1] * (-1 - axis))
        return np.broadcast_to(column >= ranks.reshape(-1, *[1] * (leaf.ndim - 1)), leaf.shape)

    return nested({p: padding(p, leaf) for p, leaf in flat(stacked).items() if p.endswith((A, B))})
