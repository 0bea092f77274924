"""S4: arms, items scored one by one, and what is asked of open questions; on a model of 16 dimensions."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax
from experiments.common.errors import UserError
from experiments.data.questions import Pair
from experiments.following import arms, open_questions, parts, program
from experiments.lm import answers, speaker
from lora_jax import sweep
from lora_jax.tree import flat
from tests.experiments import tiny_lm

pytestmark = pytest.mark.usefixtures("quick_compile")
LENGTH = 48
RECIPE = program.Recipe((3, 6), 3)
ARMS = (
    arms.FULL, arms.ON_PROJECTIONS, arms.EMBEDDINGS_ALONE, arms.WITH_EMBEDDINGS, arms.SQUARE_TUNED, arms.lora(4), arms.original(2),
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> speaker.Base:
    return tiny_lm.base(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def part(base) -> parts.Part:
    return parts.packed(base.tokenizer, tiny_lm.pairs(40).pairs, LENGTH)


def alone(base, module):
    """(tree, pair) -> (nats, tokens, right) of an answer, from the logits of its own sequence, padded behind."""

    @jax.jit
    def log_probabilities(tree, ids):
        return jax.nn.log_softmax(module.apply({"params": tree}, ids[None])[0].astype(jnp.float32))

    @functools.cache
    def of(tree_id: int, pair: Pair) -> tuple[float, int, bool]:
        (example,) = answers.encode(base.tokenizer, [pair], LENGTH).examples
        ids, places = np.zeros(LENGTH, np.int32), np.arange(example.answer_at, len(example.ids))
        ids[: len(example.ids)] = example.ids
        found = np.asarray(log_probabilities(trees[tree_id], ids))[places - 1]
        right = bool((found.argmax(-1) == ids[places]).all())
        return float(-found[np.arange(len(places)), ids[places]].sum()), len(places), right

    trees: dict[int, dict] = {}

    def one(tree, pair: Pair):
        trees[id(tree)] = tree
        return of(id(tree), pair)

    return one


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_an_arm_trains_what_its_name_says(arm, base):
    """B is drawn at random, so that the adapters have a say."""
    runner = program.Program(base.model, arm.kind, RECIPE)
    begun = arms.begun(runner.module, arm.kind, [base.params] * 2, [arm.member(1e-2, seed) for seed in (0, 1)])
    moving, shared = flat(begun.stacked), flat(begun.shared)
    of_base = {path for path in moving if "lora_" not in path}
    expected = {
        "full": set(flat(base.params)),
        "full on projections": {path for path in flat(base.params) if path.endswith("_proj/kernel")},
        "embeddings alone": {"model/embed_tokens/embedding"},
        "LoRA r=8 + embeddings, norms": {path for path in flat(base.params) if not path.endswith("kernel")},
    }.get(arm.name, set())
    assert of_base == expected and not of_base & set(shared) and of_base | set(shared) == set(flat(base.params))
    layers = {path.rpartition("/")[0].rpartition("/")[2] for path in moving if "lora_a" in path}
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    square = arm.kind.targets == arms.SQUARE
    assert layers == ({"q_proj", "o_proj"} if square else linear if arm.kind.targets else set())


@pytest.mark.parametrize("arm", (arms.FULL, arms.WITH_EMBEDDINGS, arms.original(2, 1e-2)), ids=lambda arm: arm.name)
def test_members_learn_and_are_scored_item_by_item(arm, base, part, folder):
    runner = program.Program(base.model, arm.kind, RECIPE)
    members = [arm.member(3e-2, seed) for seed in (0, 1)]
    out = runner.train(folder, arm.name, [base.params] * 2, members, part, {"self": part}, {"items": part})
    assert out.train_loss.shape == (2, 2) and out.curves["self"]["nats"].shape == (3, 2)
    assert (out.curves["self"]["nats"][-1] < out.curves["self"]["nats"][0]).all()
    assert not np.allclose(*out.train_loss.T)  # each has an order of its own
    scored = runner.scored(out.trees, part)
    assert list(out.judged) == [6]
    np.testing.assert_allclose(out.judged[6]["items"].nats, scored.nats, rtol=1e-6)
    np.testing.assert_array_equal(out.judged[6]["items"].right, scored.right)
    of = alone(base, runner.module)
    found = [[of(tree, pair) for pair in tiny_lm.pairs(40).pairs] for tree in out.trees]
    nats, tokens, right = (np.asarray([[item[i] for item in member] for member in found]) for i in range(3))
    np.testing.assert_allclose(scored.nats, nats, rtol=2e-4)
    np.testing.assert_array_equal(scored.tokens, tokens)
    np.testing.assert_array_equal(scored.right, right)
    np.testing.assert_allclose(out.curves["self"]["nats"][-1], nats.sum(1) / tokens.sum(1), rtol=2e-4)
    np.testing.assert_allclose(out.curves["self"]["right"][-1], right.mean(1), rtol=1e-6)
    assert len(runner.trainer.traces) == 1


def test_answers_that_are_learned_by_heart_are_right(base, folder):
    """So that a `right` that is always False would be seen."""
    few = parts.packed(base.tokenizer, tiny_lm.pairs(4).pairs, LENGTH)
    runner = program.Program(base.model, arms.FULL.kind, program.Recipe((30, 60), 2))
    out = runner.train(folder, "few", [base.params], [arms.FULL.member(2e-2, 0)], few, {"self": few})
    assert runner.scored(out.trees, few).right.all() and out.curves["self"]["right"][-1] == 1


def test_one_program_serves_several_bases(base, part, folder):
    """And what one base learns is not told to the other."""
    other = jax.tree.map(lambda leaf: leaf[..., ::-1], base.params)
    runner = program.Program(base.model, arms.ON_ALL, RECIPE)
    members = [arms.lora(4).member(1e-2, 0)]
    first, second, again = (
        runner.train(folder, name, [params], members, part, {"self": part})
        for name, params in (("first", base.params), ("second", other), ("again", base.params))
    )
    assert len(runner.trainer.traces) == 1
    chex.assert_trees_all_equal(first.trees, again.trees)
    assert not np.allclose(first.train_loss, second.train_loss)


@pytest.mark.parametrize("arm", (arms.lora(4), arms.WITH_EMBEDDINGS, arms.FULL), ids=lambda arm: arm.name)
def test_a_member_learns_the_same_beside_one_of_another_base(arm, base, part, folder):
    other = jax.tree.map(lambda leaf: leaf[..., ::-1], base.params)
    runner = program.Program(base.model, arm.kind, RECIPE)
    member = arm.member(1e-2, 0)
    both = runner.train(folder, "both", [base.params, other], [member] * 2, part, {"self": part}, {"items": part})
    for at, params in enumerate((base.params, other)):
        alone_ = runner.train(folder, f"alone {at}", [params], [member], part, {"self": part}, {"items": part})
        beside = both.of([at])
        chex.assert_trees_all_close(beside.trees, alone_.trees, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(beside.train_loss, alone_.train_loss, rtol=1e-5)
        np.testing.assert_allclose(beside.judged[6]["items"].nats, alone_.judged[6]["items"].nats, rtol=1e-4)
        assert beside.parameters == alone_.parameters and beside.curves["self"]["nats"].shape == (3, 1)


def test_a_save_of_other_bases_is_refused(base, part, folder):
    """Where several bases train at once, a save has them, and is bound to no base that could tell."""
    others = [jax.tree.map(lambda leaf, times=times: times * leaf, base.params) for times in (1.0, 1.1, 1.2)]
    runner = program.Program(base.model, arms.ON_ALL, RECIPE)
    members = [arms.lora(4).member(1e-2, 0)] * 2
    runner.train(folder, "some", others[:2], members, part, {"self": part})
    again = runner.train(folder, "some", others[:2], members, part, {"self": part})
    assert again.train_loss.shape == (2, 2)
    with pytest.raises(UserError, match="some in .* was saved with other bases; remove"):
        runner.train(folder, "some", others[1:], members, part, {"self": part})
    with pytest.raises(ValueError, match="1 bases for 2 members"):
        runner.train(folder, "none", others[:1], members, part, {"self": part})


def test_the_study_s_update_is_a_b(base):
    """Without alpha; checked with kernels merged by hand."""
    arm = arms.original(2)
    module = arms.applied(base.model, arm.kind)
    begun = arms.begun(module, arm.kind, [base.params], [arm.member(1e-4, 0)])
    filled = jax.tree.map(lambda leaf: leaf[0], begun.stacked)
    filled = {**flat(filled)}
    rng = np.random.default_rng(0)
    for path in [path for path in filled if path.endswith("lora_b")]:
        filled[path] = jnp.asarray(rng.normal(size=filled[path].shape), jnp.float32)
    ids = jnp.asarray([[1, 5, 9, 2, 7]])
    whole = lora_jax.tree.nested({**flat(begun.shared), **filled})
    merged = dict(flat(base.params))
    for name in ("q_proj", "o_proj"):
        at = f"model/layers/self_attn/{name}"
        merged[f"{at}/kernel"] = merged[f"{at}/kernel"] + filled[f"{at}/lora_a"] @ filled[f"{at}/lora_b"]
    np.testing.assert_allclose(
        module.apply({"params": whole}, ids), base.model.apply({"params": lora_jax.tree.nested(merged)}, ids), rtol=2e-4, atol=2e-4
    )  # fmt: skip


# Open questions.


PAIRS = [
    Pair(f"{verb} it.\nthe {thing} {i}" if i % 2 else f"{verb} the {thing} {i}", f"{color} {thing}", f"the {thing} {i}" if i % 2 else "")
    for i, (verb, thing, color) in enumerate(
        zip(("Paint", "Name", "Show", "Take") * 6, tiny_lm.THINGS * 3, tiny_lm.COLORS * 3, strict=False)
    )
]  # fmt: skip


def test_what_is_asked_of_open_questions(base, folder):
    """Each number from single sequences; on weights at random, where nothing is 0."""
    asked = open_questions.of(base.tokenizer, PAIRS, LENGTH, seed=3)
    runner = program.Program(base.model, arms.FULL.kind, RECIPE)
    found = asked.measures(runner.scored([base.params], asked.part))

    of = alone(base, base.model)

    def nats(question: str, answer: str) -> float:
        return of(base.params, Pair(question, answer))[0]

    every = list(dict.fromkeys(Pair(p.question, p.answer) for p in PAIRS))
    questions = {p.question for p in PAIRS}
    assert len(every) == len(PAIRS) > open_questions.CANDIDATES
    for i, pair in enumerate(PAIRS):
        own = nats(pair.question, pair.answer)
        spread = sorted(nats(q, pair.answer) - own for q in questions - {pair.question})
        value = found["question"][0, i]
        assert spread[0] - 1e-3 <= value <= spread[-1] + 1e-3
    with_input = [pair for pair in PAIRS if pair.input]
    assert found["instruction"].shape == (1, len(with_input))
    for pair, value in zip(with_input, found["instruction"][0], strict=True):
        possible = [
            nats(f"{other.instruction}\n{pair.input}", pair.answer) - nats(pair.question, pair.answer)
            for other in with_input
            if other.instruction != pair.instruction
        ]
        assert np.abs(np.asarray(possible) - value).min() < 1e-3
    candidates = asked.candidates
    assert (np.sort(candidates, axis=1)[:, 1:] != np.sort(candidates, axis=1)[:, :-1]).all()
    assert 0 < found["discrimination"].mean() < 1


def test_discrimination_is_of_what_the_question_adds(base):
    """A model that tells every answer by its question is right everywhere, however rare the answer; one that adds nothing ties."""
    asked = open_questions.of(base.tokenizer, PAIRS, LENGTH)
    rng = np.random.default_rng(0)
    nats = rng.normal(size=(2, asked.part.count)) * 20
    for i in range(len(PAIRS)):
        nats[:, asked.candidates[i]] = nats[:, asked.alone_candidates[i]]
    nats[0, asked.own] -= 1
    found = asked.measures(program.Scored(nats, np.ones_like(nats, int), np.zeros_like(nats, bool)))
    np.testing.assert_allclose(found["discrimination"][0], 1)
    np.testing.assert_allclose(found["discrimination"][1], 1 / open_questions.CANDIDATES)


def test_pairs_too_long_for_a_row_are_refused(base):
    with pytest.raises(ValueError, match="do not fit"):
        open_questions.of(base.tokenizer, [*PAIRS, Pair("x " * 60, "y")], LENGTH)


def test_members_of_a_kind_are_one_program_whatever_their_rank(base, part, folder):
    """Those of lower rank learn what they would alone."""
    runner = program.Program(base.model, arms.ON_ALL, RECIPE)
    ranks = [arms.lora(rank).member(1e-2, 0) for rank in (1, 4)]
    together = runner.train(folder, "both", [base.params] * 2, ranks, part, {"self": part})
    single = runner.train(folder, "one", [base.params], ranks[:1], part, {"self": part})
    np.testing.assert_allclose(together.train_loss[:, 0], single.train_loss[:, 0], rtol=1e-4)
    assert together.parameters[1] == 4 * together.parameters[0] and isinstance(ranks[0], sweep.Member)
