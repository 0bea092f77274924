"""What a fine-tuning learns from and is measured by: conversations from files, their split, their rows, and what is scored in them."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.errors import UserError
from experiments.data import conversations, packing, templates
from experiments.data.conversations import Conversation, asked
from experiments.finetune import rows as finetune_rows
from experiments.finetune import scores as finetune_scores
from experiments.finetune import speaking as finetune_speaking
from experiments.finetune import training as finetune_training
from experiments.finetune.jobs import Exam
from experiments.finetune.rows import Encoded
from experiments.finetune.settings import Settings
from tests.experiments import chat_lm
from tests.experiments.test_flags_and_errors import assert_one_sentence

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return chat_lm.base(tmp_path_factory.mktemp("model"))


def conversation(*turns: str, system: str | None = None) -> Conversation:
    return Conversation(tuple((m["role"], m["content"]) for m in chat_lm.messages(*turns, system=system)))


# Files.


def test_alpaca_and_medquad_and_messages_are_told_by_their_first_row(tmp_path):
    alpaca = conversations.read(chat_lm.alpaca(tmp_path / "a.json", 3))
    assert alpaca.found[1].messages == (
        ("user", "What is the number 1 called?\nThink of 1."), ("assistant", "It is called 1."),
    )  # fmt: skip
    medquad = tmp_path / "m.jsonl.gz"
    medquad.write_bytes(gzip.compress(json.dumps({"question": "What is flu?", "answer": "An illness."}).encode()))
    assert conversations.read(str(medquad)).found == (asked("What is flu?", "An illness."),)
    path = chat_lm.chats(tmp_path / "c.jsonl", chat_lm.messages("a", "b", "c", "d", system="Be kind."))
    assert conversations.read(path).found == (conversation("a", "b", "c", "d", system="Be kind."),)
    assert conversations.read(path).source == "c.jsonl (messages)"


def test_rows_that_are_no_conversation_are_counted_by_reason(tmp_path):
    bad = [
        {"messages": "hello"}, {"other": 1}, chat_lm.messages("a"), chat_lm.messages("a", " "), chat_lm.messages("", "b"),
        [{"role": "user", "content": 3}], [{"role": "tool", "content": "x"}], chat_lm.messages("caf\ufffd", "b"),
        [{"role": "assistant", "content": "I begin"}], chat_lm.messages("a", "b")[1:],
    ]  # fmt: skip
    path = chat_lm.chats(tmp_path / "c.jsonl", chat_lm.messages("a", "b", "and then?"), *bad)
    found = conversations.read(path)
    assert found.found == (conversation("a", "b"),)  # what is said after the last answer teaches nothing
    assert found.left_out == {
        "no messages": 2, "no answer": 2, "no question": 3, "no text": 1, "another role": 1, "wrong encoding": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ('{"messages": []}\n', "none of its 1 rows is a conversation with an answer (1 no answer)"),
        ('{"text": "x"}\n', "its first row has text; give instruction and output (Alpaca) or question and answer (MedQuAD), or messages (chat)"),
        ('{"instruction": "a", "output": ""}\n{"instruction": "a", "output": 5}\n', "has a question and an answer (1 no answer, 1 no text)"),
        ("", "is empty"),
        ('{"messages": \n', "line 1"),
    ],
)  # fmt: skip
def test_e6_files_that_hold_no_conversation(content, part, tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        conversations.read(str(path))
    assert_one_sentence(f"error: {error.value}\n", part)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.jsonl.gz"])
def test_e3_a_byte_order_mark_and_carriage_returns_are_no_part_of_a_file(name, tmp_path):
    row = json.dumps({"instruction": "Say é.", "output": "é"}, ensure_ascii=False)
    content = f"\ufeff{row}\r\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert conversations.read(str(tmp_path / name)).found == (asked("Say é.", "é"),)


def test_e6_too_few_questions_are_told_with_what_was_left_out():
    found = conversations.Conversations((asked("a", "b"), asked("a", "c")), {"no answer": 5}, "a.jsonl (alpaca)")
    with pytest.raises(UserError) as error:
        conversations.split(found, 3, None)
    assert_one_sentence(f"error: {error.value}\n", "has 1 different question (5 no answer left out); give at least 2")


# The split.


def test_a_conversations_part_is_a_matter_of_its_first_question():
    found = [conversation(f"question {i}", f"answer {i}", f"more {i}", "end") for i in range(50)]
    twice = conversation("question 7", "another answer")
    of = conversations.Conversations((*found, twice), {"no text": 1}, "made")
    train, held_out = conversations.split(of, 5, None)
    assert (len(train.found), len(held_out.found)) == (45, 5)
    assert train.left_out == {"no text": 1, "asked before": 1}
    assert not {one.first for one in train.found} & {one.first for one in held_out.found}
    turned = conversations.split(conversations.Conversations(tuple(found[::-1]), {}, "made"), 5, None)
    assert (turned[0].found, turned[1].found) == (train.found, held_out.found)
    assert conversations.split(of, 5, 20)[0].found == train.found[:20]
    assert conversations.split(of, 200, None)[1].found == held_out.found  # a tenth at most
    with pytest.raises(UserError, match="--data: made has 1 different question; give at least 2"):
        conversations.split(conversations.Conversations((twice,), {}, "made"), 5, None)


# Rows.


def test_all_answers_of_a_conversation_are_scored_and_nothing_else(base):
    found = finetune_rows.encode(base, [conversation("one", "red", "two", "blue", system="Be brief.")], 64, what="here")
    rows, _ = packing.place(found.examples, 64)
    places = np.flatnonzero(rows.scored[0])
    said = [base.tokenizer.decode([id], skip_special_tokens=False) for id in rows.ids[0, places + 1].tolist()]
    assert "".join(said) == "red<|end|>blue<|end|>"


def test_what_is_too_long_or_refused_is_counted_and_the_rest_is_used(base, tmp_path):
    long = conversation("word " * 80, "b")
    found = finetune_rows.encode(base, [conversation("a", "b"), long, conversation("c", "d")], 64, what="here")
    assert found.left_out == {"too long": 1} and [one.question for one in found.conversations] == ["a", "c"]
    with pytest.raises(UserError, match="none of 1 conversations here fits into 64 tokens; take a longer --length"):
        finetune_rows.encode(base, [long], 64, what="here")
    picky = chat_lm.base(
        tmp_path,
        template=chat_lm.TEMPLATE + "{% if messages|length > 2 %}{{ raise_exception('one at a time') }}{% endif %}",
    )
    several = conversation("a", "b", "c", "d")
    found = finetune_rows.encode(picky, [conversation("a", "b"), several], 64, what="here")
    assert found.left_out == {"refused by the chat template": 1}
    with pytest.raises(UserError, match="none of 1 conversations here can be used: .*one at a time"):
        finetune_rows.encode(picky, [several], 64, what="here")


def test_the_systems_words_begin_the_question_where_the_template_has_no_place_for_them(tmp_path):
    strict = chat_lm.base(
        tmp_path,
        template="{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + chat_lm.TEMPLATE,
    )
    turns = conversation("a", "b", system="Be brief.").messages
    assert not strict.takes_system and strict.fitted(turns)[0] == {"role": "user", "content": "Be brief.\na"}
    assert [one["role"] for one in strict.fitted(turns)] == ["user", "assistant"]


@pytest.mark.parametrize("template", [templates.TINY, templates.plain(begins=False)], ids=["tiny", "plain"])
def test_templates_of_ours_write_what_was_said_as_they_write_a_question(template, base):
    import dataclasses

    words = dataclasses.replace(base.tokenizer, chat_template=template)
    ids, said = words.conversation(chat_lm.messages("one", "red", "two", "blue"))
    answers = words.decode([id for id, is_answer in zip(ids, said, strict=True) if is_answer], skip_special_tokens=True)
    assert "red" in answers and "blue" in answers and "one" not in answers and "two" not in answers


# Scores.


def packed_alone(found: Encoded, length: int) -> list[finetune_rows.Packed]:
    return [
        finetune_rows.pack(Encoded((one,), (example,), {}), length)
        for one, example in zip(found.conversations, found.examples, strict=True)
    ]


def test_a_conversation_scores_in_a_shared_row_as_it_does_alone(base):
    items = [conversation(f"say {word}", word) for word in ("red", "blue", "green", "black and white", "one")]
    found = finetune_rows.encode(base, [*items, conversation("a", "b", "c", "d")], 64, what="here")
    packed = finetune_rows.pack(found, 64)
    assert len(packed) < len(found.examples)
    together = finetune_scores.of_voice(base.voice, packed, 2)
    measure = finetune_scores.Measure(base.model, 2)
    alone = [measure(base.params, one) for one in packed_alone(found, 64)]
    np.testing.assert_allclose(together.nats, [one.nats[0] for one in alone], rtol=1e-5)
    assert together.tokens.tolist() == [sum(example.is_answer) for example in found.examples]
    logits = base.model.apply({"params": base.params}, jnp.asarray([found.examples[3].ids], jnp.int32))[0]
    losses = -jax.nn.log_softmax(logits)[jnp.arange(len(logits) - 1), jnp.asarray(found.examples[3].ids)[1:]]
    np.testing.assert_allclose(together.nats[3], losses[np.asarray(found.examples[3].is_answer)[1:]].sum(), rtol=1e-5)


def test_right_by_teacher_forcing_is_what_greedy_decoding_says(base):
    """Answers that the model itself gives are right, every one; with one token changed, none is."""
    prompts = [base.prompt([("user", f"say {word}")]) for word in ("red", "blue", "green", "black", "one", "two")]
    said = [_greedy(base, prompt, 5) for prompt in prompts]
    assert len({tuple(ids) for ids in said}) > 2
    for change, expected in ((0, True), (1, False)):
        for place in (0, 2, 4):
            changed = [[*ids[:place], (ids[place] + change) % 400, *ids[place + 1 :]] for ids in said]
            examples = tuple(packing.Example.of_pair(*pair) for pair in zip(prompts, changed, strict=True))
            of = Encoded((conversation("a", "b"),) * len(prompts), examples, {})
            scores = finetune_scores.of_voice(base.voice, finetune_rows.pack(of, 64), 2)
            assert scores.right.tolist() == [expected] * len(prompts)


def _greedy(base, prompt: list[int], count: int) -> list[int]:
    """By another route: the whole sequence through the model for every token."""
    ids = list(prompt)
    for _ in range(count):
        padded = jnp.zeros((1, 48), jnp.int32).at[0, : len(ids)].set(jnp.asarray(ids))
        ids.append(int(base.model.apply({"params": base.params}, padded)[0, len(ids) - 1].argmax()))
    return ids[len(prompt) :]


def test_agreement_counts_answers_that_are_called_alike():
    counts = finetune_speaking.agreement(["a", "b", "c", "d"], ["a", "x", "c", "d"], [True, False, False, True])
    assert counts == {"n": 4, "alike": 3}


def test_an_exam_asks_the_first_items_that_leave_room(base):
    items = [conversation("word " * 120, "b"), conversation("a", "b"), conversation("c", "d"), conversation("e", "f")]
    settings = Settings(length=192, asked=2, max_new_tokens=90, batch_size=2)
    exam = Exam.of(base, settings, items)
    assert exam.questions == [1, 2] and len(exam.said(base.voice)) == 2


def test_summaries_have_intervals_and_differences_are_paired():
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, 9, 60)
    before = finetune_scores.Scores(tokens * rng.uniform(1, 5, 60), tokens, rng.random(60) < 0.2)
    after = finetune_scores.Scores(before.nats - 0.5 * tokens, tokens, before.right | (np.arange(60) < 30))
    of = finetune_scores.summary(before)
    assert of["loss"]["mean"] == pytest.approx(before.nats.sum() / tokens.sum())
    assert of["loss"]["low"] < of["loss"]["mean"] < of["loss"]["high"]
    assert of["accuracy"]["mean"] == before.right.mean()
    paired = finetune_scores.difference(before, after)
    assert paired["loss"]["mean"] == pytest.approx(-0.5) and paired["loss"]["high"] - paired["loss"]["low"] < 1e-9
    gained = after.right.mean() - before.right.mean()
    assert paired["accuracy"]["mean"] == pytest.approx(gained)
    assert 0 < paired["accuracy"]["low"] < gained < paired["accuracy"]["high"]
    back = finetune_scores.Scores.of_lists(json.loads(json.dumps(before.lists())))
    assert back.right.dtype == bool and back.nats.tolist() == before.nats.tolist()
    assert finetune_scores.by_kind(after, ["x"] * 30 + ["y"] * 30)["x"] == {"n": 30, "right": 30}


def test_the_progress_bar_says_speed_and_loss():
    assert (
        finetune_training._told({"tokens": 2400, "seconds": 2.0, "loss": np.array([1.0, 2.0])})
        == "1,200 tokens/s, loss 1.500"
    )
