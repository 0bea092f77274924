"""A bank while it serves: are slots filled, emptied and asked for without a retrace, and never mistaken for another?"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax
from lora_jax import LoRA, LoRAConfig, LoRAError, adapter_of, bank, combine, strip
from lora_jax.models.mlp import MLP
from tests.cases import assert_trees_close, randomised

pytestmark = pytest.mark.usefixtures("quick_compile")
BASE_MODULE, X = MLP(hidden=(6,), classes=3), jax.random.normal(jax.random.key(9), (4, 5))

NOBODY = jnp.array([-1, -1, -1, -1])


def model(rank: int = 2, **fields) -> LoRA:
    return LoRA(BASE_MODULE, LoRAConfig(rank=rank, targets="*", **fields))


@functools.cache
def base() -> dict:
    return BASE_MODULE.init(jax.random.key(0), X)["params"]


@functools.cache
def adapter(seed: int, rank: int = 2, **fields) -> dict:
    """With random values, and a head's bias of its own."""
    params = randomised(lora_jax.adapt(jax.random.key(seed), base(), model(rank, **fields), X), seed)
    return {**adapter_of(params), "classifier": {**adapter_of(params)["classifier"], "bias": jnp.full(3, float(seed))}}


def alone(tree: dict | None, row: int, **fields) -> jax.Array:
    whole = base() if tree is None else {name: {**base()[name], **tree.get(name, {})} for name in base()}
    return model(**fields).apply({"params": whole}, X[row : row + 1])[0]


class Server:
    """`bank.apply` under jit, its traces counted."""

    def __init__(self, **fields):
        self.traces, self.model = 0, model(**fields)
        self.run = jax.jit(self._run)

    def _run(self, stacked, ids):
        self.traces += 1
        return bank.apply(self.model, base(), stacked, ids, X)


@pytest.mark.parametrize("fields", [{}, {"dora": True}, {"init": "pissa"}], ids=str)
def test_adapters_come_and_go_without_a_retrace(fields):
    server, slots = Server(**fields), bank.Slots({"french": 0}, capacity=3)
    stacked = bank.stack(base(), {"french": adapter(1, 2, **fields)}, capacity=3, rank=6)
    ids = jnp.array([0, 1, 2, -1])
    first = server.run(stacked, ids)
    put = jax.jit(bank.put)
    stacked = bank.put(stacked, slots.add("german"), adapter(2, 3, **fields))
    stacked = put(stacked, slots.add("latin"), adapter(3, 1, **fields))
    stacked = bank.put(stacked, slots["french"], adapter(4, 2, **fields))
    got = server.run(stacked, ids)
    trees = [adapter(4, 2, **fields), adapter(2, 3, **fields), adapter(3, 1, **fields), None]
    for row, tree in enumerate(trees):
        assert_trees_close(got[row], alone(tree, row, **fields))
    assert_trees_close(first[1], alone(None, 1))  # free slots are the base
    stacked = bank.remove(stacked, slots.remove("german"))
    stacked = jax.jit(bank.remove)(stacked, jnp.asarray(2))
    emptied = server.run(stacked, ids)
    assert_trees_close(emptied[0], got[0])
    for row in (1, 2, 3):
        assert jnp.array_equal(emptied[row], server.run(stacked, NOBODY)[row])
    assert server.traces == 1 and slots.ids(["french", None]).tolist() == [0, -1]


def test_a_slot_put_is_the_slot_stacked_bit_for_bit():
    together = bank.stack(base(), [adapter(1), adapter(2)], capacity=3)
    one = bank.put(bank.stack(base(), [adapter(1)], capacity=3), 1, adapter(2))
    assert jax.tree.all(jax.tree.map(lambda a, b: jnp.array_equal(a, b) and a.dtype == b.dtype, together, one))


def test_of_a_whole_tree_what_is_the_base_s_own_is_no_head():
    whole = combine(base(), adapter_of(adapter(2)))
    stacked = bank.stack(base(), [adapter_of(adapter(1))], capacity=2)
    got = bank.put(stacked, 1, whole, base_params=base())
    expected = bank.put(stacked, 1, adapter_of(adapter(2)))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, got, expected))


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int32, jnp.uint8])
def test_under_jit_an_id_that_is_not_in_the_bank_is_the_base(dtype):
    stacked, server = bank.stack(base(), [adapter(1), adapter(2)], capacity=130), Server()
    far = jnp.asarray([1, 131, -2, 127] if dtype == jnp.int32 else [1, 120, 100, 127]).astype(dtype)
    got, plain = server.run(stacked, far), server.run(stacked, NOBODY)
    assert_trees_close(got[0], alone(adapter(2), 0))
    assert jnp.array_equal(got[1:], plain[1:])
    beyond = jnp.asarray([130, 2**31 - 1, -(2**31), -131])
    assert jnp.array_equal(server.run(stacked, beyond), plain)


@pytest.mark.parametrize("slot", [-1, 3, 4, 100, -4])
def test_under_jit_a_slot_that_is_not_in_the_bank_changes_nothing(slot):
    stacked = bank.stack(base(), [adapter(1)], capacity=3)
    for changed in (jax.jit(bank.put)(stacked, slot, adapter(2)), jax.jit(bank.remove)(stacked, slot)):
        assert jax.tree.all(jax.tree.map(jnp.array_equal, stacked, changed))


def other_base_adapter() -> dict:
    other = jax.tree.map(lambda leaf: 2 * leaf, base())
    return adapter_of(lora_jax.adapt(jax.random.key(0), other, model(dora=True), X))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda room: bank.put(room, 3, adapter(2)), "there is no slot 3; the bank has 0 to 2"),
        (lambda room: bank.put(room, -1, adapter(2)), "there is no slot -1"),
        (lambda room: bank.put(room, True, adapter(2)), "there is no slot True"),
        (lambda room: bank.remove(room, 3), "there is no slot 3"),
        (lambda room: bank.put(room, 0, adapter(2, 3)), "rank 3 at .*, and the bank holds ranks up to 2; stack it with rank=3"),
        (lambda room: bank.put(room, 0, adapter(2, dora=True)), "a magnitude .DoRA. at"),
        (lambda room: bank.put(room, 0, combine(base(), adapter_of(adapter(2)))), "brings .*kernel, for which the bank has no place"),
        (lambda room: bank.put(room, 0, strip(base())), "no adapter"),
        (lambda room: bank.put({}, 0, adapter(2)), "the bank is empty"),
        (lambda room: bank.put(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), room), 0, adapter(2)), "would round; cast it"),
        (lambda room: bank.stack(base(), [adapter(1), adapter(2)], capacity=1), "capacity is 1; it must be an integer of at least 2"),
        (lambda room: bank.stack(base(), [adapter(1, 3)], rank=2), "rank is 2; it must be an integer of at least 3"),
        (lambda room: bank.stack(base(), combine(base(), adapter_of(adapter(1)))), "one adapter's own tree"),
        (lambda room: bank.stack(base(), [other_base_adapter()]), "adapter 0 is of another base: .* has other norms"),
        (lambda room: bank.put(bank.stack(base(), [adapter(1, dora=True)]), 0, other_base_adapter()), "other norms"),
        (lambda room: bank.apply(model(), base(), room, np.array([0, 1, 2, 2**32]), X), "there is no adapter 4294967296"),
        (lambda room: bank.apply(model(), base(), room, np.array([0, 1, 3, 0]), X), "there is no adapter 3"),
        (lambda room: bank.Slots(["a", "a"]), "not all different"),
        (lambda room: bank.Slots(["a", "b"], capacity=1), "at least 2"),
        (lambda room: bank.Slots(["french"])["frnch"], "closest: french"),
        (lambda room: bank.Slots(["french"]).add("german"), "the bank is full"),
        (lambda room: bank.Slots(["french"], capacity=2).add("french"), "lies in slot 0 already"),
    ],
)  # fmt: skip
def test_what_does_not_go_in_says_so(act, message):
    with pytest.raises(LoRAError, match=message):
        act(bank.stack(base(), [adapter(1)], capacity=3))


def test_a_folder_of_peft_folders(tmp_path):
    layout, config = lora_jax.layout(BASE_MODULE, X), model().config
    trees = {name: combine(base(), adapter_of(adapter(seed))) for name, seed in (("german", 2), ("french", 1))}
    for name, tree in trees.items():
        lora_jax.peft.save(tmp_path / name, tree, config, layout, mask=None)
    stacked, slots = bank.load(tmp_path, base(), layout, capacity=4)
    got = bank.apply(model(), base(), stacked, slots.ids(["french", "german", None, "french"]), X)
    for row, name in enumerate(["french", "german", None, "french"]):
        assert_trees_close(got[row], alone(None if name is None else adapter_of(trees[name]), row))
    assert list(slots) == ["french", "german"] and slots.capacity == 4

    with pytest.raises(LoRAError, match="one adapter's own folder"):
        bank.load(tmp_path / "german", base(), layout)
    (tmp_path / "notes").mkdir()
    with pytest.raises(LoRAError, match="notes has no adapter_config.json"):
        bank.load(tmp_path, base(), layout)
    (tmp_path / "notes").rmdir()
    (tmp_path / "german" / "adapter_model.safetensors").unlink()
    with pytest.raises(LoRAError, match="german"):
        bank.load(tmp_path, base(), layout)
    for empty in (tmp_path / "nothing", tmp_path / "nothing" / "at" / "all"):
        empty.mkdir(parents=True, exist_ok=True)
    with pytest.raises(LoRAError, match="no folders in it"):
        bank.load(tmp_path / "nothing" / "at" / "all", base(), layout)


def test_a_name_is_a_string_and_none_is_the_base_alone():
    slots = bank.Slots(["french"], capacity=3)
    for call in (
        lambda: bank.Slots("french"),
        lambda: bank.Slots(["french", None]),
        lambda: slots.add(None),
        lambda: slots[None],
        lambda: slots.ids("french"),
        lambda: slots.ids([0]),
        lambda: slots.ids(None),
        lambda: slots.add(["a"]),
    ):
        with pytest.raises(LoRAError, match="is no name of an adapter|give a list of names"):
            call()
    assert slots.ids(np.array(["french"])).tolist() == [0] and list(slots) == ["french"]
