"""Training all members in one program, on one device or shared out over a mesh."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lora_jax import mesh as meshes
from lora_jax import training
from lora_jax.elementwise import require_elementwise
from lora_jax.errors import ConfigError, TreeError
from lora_jax.intake import described, tree_of
from lora_jax.mesh import MEMBERS
from lora_jax.partition import Mask, combine, partition
from lora_jax.sweep.members import Member
from lora_jax.sweep.order import require_order
from lora_jax.sweep.stacks import everywhere, fill
from lora_jax.sweep.values import rate_of, seed_of
from lora_jax.tree import Params

# Measured by experiments/benchmark.py on a CPU with small MLPs over one base, where one wide product beats many narrow ones
# (docs/decisions/sweeps.md); for accelerators from design, not yet measured.
DEFAULT_STRATEGY = {"cpu": "vmap", "gpu": "vmap", "tpu": "vmap"}
STRATEGIES = ("auto", "vmap", "sequential")


class SweepState(NamedTuple):
    """M runs at once; every leaf has a leading axis [M]. `own` are frozen leaves that differ between members."""

    train: training.TrainState
    own: Params
    learning_rate: jax.Array  # [M] float32


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
        if not callable(self.optimizer):
            raise ConfigError(
                f"Sweep is given {described(self.optimizer)} for its optimiser; it takes a function of the learning rate, as optax.adamw "
                "is, and not the transformation that this makes."
            )

    def start(
        self,
        stacked: Params,
        mask: Mask,
        *,
        members: Sequence[Member] | None = None,
        learning_rates: Sequence[float] | None = None,
        seeds: Sequence[int] | None = None,
        padded: bool | None = None,
    ) -> SweepState:
        """The state before the first step.

        Args:
          stacked: what differs between members, leaves [M, ...]: adapters from `init_adapters`, with heads or a whole
            base from `broadcast`.
          mask: which of these leaves train; `trainable_mask(stacked, ...)`.
          members: M, whose learning rates and seeds are taken; the seed names the stream of dropout keys.
          learning_rates, seeds: M each, in place of members, where there are none.
          padded: whether ranks may be padded, so that the optimiser must be element-wise; None: unless all members have one rank.

        Raises:
          ConfigError: for both, or neither, of members and learning rates with seeds, and for one that is none.
          OptimizerError: when padding would change what the optimiser does (Adafactor, Muon, Shampoo ...).
          TreeError: when leaves, learning rates and seeds speak of different numbers of members.

        >>> trainer = Sweep(lambda params, batch, key: (params["w"] * batch, None), optax.sgd)
        >>> state = trainer.start({"w": jnp.zeros(2)}, {"w": True}, learning_rates=(0.1, 0.2), seeds=(0, 1), padded=False)
        >>> state.learning_rate.shape
        (2,)
        """
        leaves = tree_of(stacked, "Sweep.start: stacked")
        learning_rates, seeds = _told(members, learning_rates, seeds)
        if padded or (padded is None and (members is None or len({member.rank for member in members}) > 1)):
            require_elementwise(self.optimizer)
        own, trainable = partition(stacked, mask)
        sizes = {leaf.shape[0] for leaf in jax.tree.leaves(stacked)} | {len(learning_rates), len(seeds)}
        if len(sizes) > 1:
            raise TreeError(f"the members' leaves, learning rates and seeds disagree on their number: {sorted(sizes)}.")
        if members is not None:
            require_order(leaves, members)

        return self._spread(
            self._begin(own, trainable, np.asarray(learning_rates, np.float32), np.asarray(seeds, np.uint32))
        )

    @functools.cached_property
    def _begin(self) -> Callable:
        """`start`, as one program: by itself each leaf would be several. Nothing of the caller's is in the state, which is donated."""

        def begin(trainable, rate, seed):  # init_state copies the trainable leaves
            return training.init_state(trainable, self.optimizer(rate), jax.random.key(seed))

        def begin_all(own, trainable, rates, seeds):
            return SweepState(jax.vmap(begin)(trainable, rates, seeds), jax.tree.map(jnp.array, own), jnp.array(rates))

        return jax.jit(begin_all)

    def filled(self, state: SweepState) -> SweepState:
        """The state with its last member again until the devices share the members evenly, and each device's members laid on it.

        `first` takes the members alone out of it again.

        >>> trainer = Sweep(lambda params, batch, key: (params["w"] * batch, None), optax.sgd)
        >>> state = trainer.start({"w": jnp.zeros(2)}, {"w": True}, learning_rates=(0.1, 0.2), seeds=(0, 1), padded=False)
        >>> len(trainer.filled(state).learning_rate) % jax.device_count()
        0
        """
        members = len(state.learning_rate)
        return self._spread(fill(state, members + -members % meshes.sharing_members(self.mesh)))

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
            _require_apart(shared, state)
            order = meshes.cut(order, self._mesh_of(state), order.ndim - 1)
            state, metrics = self._over_devices(
                some, state, shared, data, order, by_member=(True, False, False, order.ndim == 3)
            )
            return self._laid(
                state, state, jax.P(MEMBERS)
            ), metrics  # as `_spread` laid it, or a second call would compile again

        return training.Checked(jax.jit(run, donate_argnums=0), "Sweep.run")

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

        def evaluate(state: SweepState, shared: Params, data: Any):
            _require_apart(shared, state)
            sums = self._over_devices(some, state, shared, data, by_member=(True, False, False))
            return self._laid(sums, state, jax.P())

        return jax.jit(evaluate)

    def _mesh_of(self, state: SweepState) -> jax.sharding.Mesh | None:
        """The mesh that the members lie on; None where they do not divide evenly, or there is one device."""
        mesh = meshes.make(members=jax.device_count()) if self.mesh is None else self.mesh
        return None if mesh.size == 1 or len(state.learning_rate) % meshes.size_of(mesh, MEMBERS) else mesh

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


def _told(members: Any, rates: Any, seeds: Any) -> tuple[list[float], list[int]]:
    """(learning rates, seeds) of members, or as they are given."""
    if (members is None) == (rates is None and seeds is None) or (rates is None) != (seeds is None):
        raise ConfigError(
            "Sweep.start takes members=, those of sweep.grid, or learning_rates= and seeds= in their place; give the one or the other."
        )
    if members is not None:
        if not isinstance(members, Sequence) or not all(isinstance(member, Member) for member in members):
            raise ConfigError(
                f"Sweep.start: members is {described(members)}; give the list of members that sweep.grid made."
            )
        rates, seeds = [member.learning_rate for member in members], [member.seed for member in members]
    zero = members is None  # a run of one's own that stays where it is, to compare with
    return [rate_of(rate, zero=zero) for rate in rates], [seed_of(seed) for seed in seeds]


def _require_apart(shared: Params, state: SweepState) -> None:
    """Raises TreeError for a leaf of the base that each member has, too."""
    own = {
        **tree_of(state.own, "the state's own leaves"),
        **tree_of(state.train.trainable, "the state's trainable leaves"),
    }
    twice = next((path for path in tree_of(shared, "the sweep's base") if path in own), None)
    if twice is not None:
        raise TreeError(
            f"{twice} is in the base that the members share, and is each member's own; give the base without it, the frozen part of "
            "lora_jax.partition(base_params, lora_jax.trainable_mask(base_params, train=...))."
        )


def member_params(state: SweepState, shared: Params, index: int) -> dict:
    """The whole parameter tree of one member, adapters still padded: of one shape for all; `member` gives it as it would be alone.

    >>> trainer = Sweep(lambda params, batch, key: (params["w"], None), optax.sgd)
    >>> state = trainer.start({"w": jnp.array([1.0, 2.0])}, {"w": True}, learning_rates=(0.1, 0.1), seeds=(0, 1), padded=False)
    >>> {name: float(leaf) for name, leaf in member_params(state, {"base": jnp.ones(())}, 1).items()}
    {'base': 1.0, 'w': 2.0}
    """
    _require_apart(shared, state)
    own, trainable = jax.tree.map(lambda leaf: leaf[index], everywhere((state.own, state.train.trainable)))
    return combine(shared, own, trainable)
