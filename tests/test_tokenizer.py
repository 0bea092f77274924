"""Are a folder's tokenizer and chat template used as they are, the assistant's words found, and what cannot be used named?

Ids and conversations are held against `transformers` in interop/test_tokenizer_live.py.
"""

import itertools
import json
import sys

import pytest
from etils import epath

from lora_jax.errors import ModelError
from lora_jax.models import chat_template, tokenizer
from tests import tokenizer_cases as cases

pytest.importorskip("tokenizers")
pytest.importorskip("jinja2")


def chatting(folder, kind: str) -> tokenizer.Tokenizer:
    return tokenizer.read(epath.Path(cases.chat_folder(folder, kind)))


def with_template(folder, template: str) -> tokenizer.Tokenizer:
    cases.chat_folder(folder, "smollm2")
    (folder / "chat_template.jinja").write_text(template)
    return tokenizer.read(epath.Path(folder))


def refusal(call) -> str:
    with pytest.raises(ModelError) as told:
        call()
    assert "\n" not in str(told.value)
    return str(told.value)


def answers(found: tokenizer.Tokenizer, messages, **variables) -> list[str]:
    """The texts that the assistant says."""
    ids, said = found.conversation(messages, **variables)
    assert ids == found.chat_ids(messages, add_generation_prompt=False, **variables) and len(ids) == len(said)
    runs = itertools.groupby(zip(ids, said, strict=True), key=lambda pair: pair[1])
    return [found.decode([id for id, _ in run], skip_special_tokens=False) for yes, run in runs if yes]


# Reading


def test_special_tokens_and_files_are_the_folders(tmp_path):
    found = chatting(tmp_path, "llama3")
    assert (found.bos, found.eos, found.pad, found.unk) == (0, 1, None, None)
    assert found.vocab_size == found.backend.get_vocab_size() and found.special == {0, 1, 2, 3}
    assert found.files.keys() == {"tokenizer.json", "tokenizer_config.json"}
    assert found.files["tokenizer.json"] == (tmp_path / "tokenizer.json").read_bytes()
    again = tmp_path / "again"
    again.mkdir()
    for name, content in found.files.items():
        (again / name).write_bytes(content)
    copy = tokenizer.read(epath.Path(again))
    assert copy.stop == found.stop and copy.encode("Hello world") == found.encode("Hello world")


def test_a_folder_without_a_tokenizer_has_none(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert tokenizer.read(epath.Path(tmp_path)) is None


@pytest.mark.parametrize("text", cases.TEXTS)
def test_text_comes_back(tmp_path, text):
    found = chatting(tmp_path, "smollm2")
    assert found.decode(found.encode(text), skip_special_tokens=False) == text
    assert all(id in found.special for id in found.encode("<|im_start|><|im_end|>"))


def test_the_template_file_goes_before_the_config_and_the_list_has_a_default(tmp_path):
    found = chatting(tmp_path, "smollm2")
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes {{ messages[0].content }}"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert tokenizer.read(epath.Path(tmp_path)).chat([cases.QUESTION]).startswith("yes What")
    (tmp_path / "chat_template.jinja").write_text("file")
    assert tokenizer.read(epath.Path(tmp_path)).chat([cases.QUESTION]) == "file" != found.chat_template


@pytest.mark.parametrize("kind", cases.TEMPLATES)
def test_stop_is_eos_and_the_end_of_a_turn(tmp_path, kind):
    found = chatting(tmp_path, kind)
    assert found.end_of_turn == 1 and found.stop == (1,)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 1, 0]}))
    assert tokenizer.read(epath.Path(tmp_path)).stop == (1, 2, 0)


def test_the_end_of_a_turn_ends_an_answer_that_eos_does_not(tmp_path):
    cases.chat_folder(tmp_path, "smollm2")
    said = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"eos_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    assert tokenizer.read(epath.Path(tmp_path)).stop == (0, 1)


# Who says what


@pytest.mark.parametrize("kind", cases.TEMPLATES)
def test_the_assistants_words_and_its_ends_of_turn_are_marked(tmp_path, kind):
    found = chatting(tmp_path, kind)
    end = cases.marks(kind)[1]
    thinking = (
        "<think>\n\n</think>\n\n" if kind == "qwen3" else ""
    )  # which its template writes before the last answer alone
    space = " " if kind == "mistral" else ""
    first, second = f"{space}It is 5.{end}", f"{space}{thinking}That is 7, and\nnot more.{end}"
    assert answers(found, cases.CONVERSATIONS["two"]) == [first, second]
    assert answers(found, cases.CONVERSATIONS["answered"]) == [f"{space}{thinking}It is 5.{end}"]
    assert answers(found, cases.CONVERSATIONS["one"]) == []


def test_a_question_ends_where_the_answer_begins(tmp_path):
    found = chatting(tmp_path, "llama3")
    ids, said = found.conversation(cases.CONVERSATIONS["two"])
    first = said.index(True)
    assert ids[:first] == found.chat_ids([cases.QUESTION])
    second = len(said) - said[::-1].index(True)
    assert second == len(ids) and ids[-1] == found.eos


def test_an_answer_that_has_an_end_of_turn_in_it_goes_on_to_its_own(tmp_path):
    messages = [cases.QUESTION, {"role": "assistant", "content": "one<|im_end|>two"}, cases.MORE, cases.ANSWER]
    assert answers(chatting(tmp_path, "smollm2"), messages) == ["one<|im_end|>two<|im_end|>", "It is 5.<|im_end|>"]


def test_a_template_without_an_end_of_turn_marks_the_words(tmp_path):
    template = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
    found = with_template(tmp_path, template)
    assert found.end_of_turn is None and answers(found, cases.CONVERSATIONS["answered"]) == ["It is 5.\n"]


def test_a_template_that_ends_the_last_turn_alone_is_refused_for_the_others(tmp_path):
    template = (
        "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}{% if loop.last %}<|im_end|>{% endif %}{% endfor %}"
    )
    found = with_template(tmp_path, template + "{% if add_generation_prompt %}a:{% endif %}")
    assert (
        "begin" not in (said := refusal(lambda: found.conversation(cases.CONVERSATIONS["two"]))) and "message 1" in said
    )
    assert found.end_of_turn == 1


def test_what_was_thought_in_an_earlier_answer_is_not_said_again(tmp_path):
    found = chatting(tmp_path, "qwen3")
    messages = [
        cases.QUESTION,
        {"role": "assistant", "content": "<think>\n2+3\n</think>\n\nIt is 5."},
        cases.MORE,
        cases.ANSWER,
    ]
    assert answers(found, messages) == ["It is 5.<|im_end|>", "<think>\n\n</think>\n\nIt is 5.<|im_end|>"]


def test_the_parts_of_a_message_that_the_template_knows_reach_it(tmp_path):
    found = chatting(tmp_path, "qwen3")
    messages = [cases.QUESTION, {**cases.ANSWER, "reasoning_content": "2+3"}]
    assert answers(found, messages) == ["<think>\n2+3\n</think>\n\nIt is 5.<|im_end|>"]


def test_a_template_that_moves_the_system_message_is_refused(tmp_path):
    found = chatting(tmp_path, "mistral")
    messages = [cases.SYSTEM, *cases.CONVERSATIONS["two"]]
    assert "does not write the messages before message 2 as it writes them when they are asked" in refusal(
        lambda: found.conversation(messages)
    )
    refusal(
        lambda: found.conversation(messages[:3])
    )  # in this template a system message is lost where the last word is an answer
    assert answers(found, messages[1:3]) == [" It is 5.</s>"]


def test_an_answer_that_begins_within_a_token_is_refused(tmp_path):
    import tokenizers
    from tokenizers import models

    backend = tokenizers.Tokenizer(models.BPE({"\n": 0, "\n\n": 1, "a": 2, "<e>": 3}, [("\n", "\n")]))
    backend.add_special_tokens(["<e>"])
    template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}\n{% else %}{{ m.content }}<e>{% endif %}{% endfor %}"
    found = tokenizer.Tokenizer(backend, chat_template=template)
    question = {"role": "user", "content": "a"}
    said = refusal(lambda: found.conversation([question, {"role": "assistant", "content": "\na"}]))
    assert "message 1, '\\na', begins within a token of its question; strip the spaces" in said
    assert found.conversation([question, {"role": "assistant", "content": "a"}]) == (
        [2, 0, 2, 3],
        [False, False, True, True],
    )


def test_a_conversation_that_begins_with_an_answer_is_refused(tmp_path):
    assert "begins with a question" in refusal(lambda: chatting(tmp_path, "smollm2").conversation([cases.ANSWER]))


# Templates that fail


@pytest.mark.parametrize(
    ("template", "said"),
    (
        ("a\n{% for m in messages %}\n{{ m. }}", "in line 3: expected name or number"),
        ("a\n{% for m in messages %}", "in line 2: Unexpected end of template"),
        ("a\n\n{{ messages[0].content.shout() }}", "in line 3: 'str object' has no attribute 'shout'"),
        ("{{ raise_exception('Only one user, please') }}", "in line 1: Only one user, please (TemplateError)"),
        ("a\n{{ missing.name }}", "in line 2: 'missing' is undefined"),
        ("a\n{{ 1 // 0 }}", "in line 2: "),
        ("{{ messages.append(1) }}", "in line 1: "),
        ("{{ ''.__class__.__mro__ }}", "in line 1: access to attribute '__class__'"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ range(10000000) | list }}", "in line 1: Range too big"),
        ("{% include 'x' %}", "in line 1: no loader"),
        ("{{ messages | nothing }}", "in line 1: No filter named 'nothing'"),
    ),
)
def test_a_template_that_fails_says_so_in_its_own_words(tmp_path, template, said):
    found = with_template(tmp_path, template)
    assert found.stop == (1,)  # a template is looked at when it is used
    told = refusal(lambda: found.chat([cases.QUESTION]))
    assert told.startswith(f"{tmp_path}: its chat template fails") and said in told


def test_a_template_cannot_change_what_it_is_given(tmp_path):
    messages = [dict(cases.QUESTION)]
    refusal(lambda: with_template(tmp_path, "{% set _ = messages[0].update({'role': 'x'}) %}").chat(messages))
    assert messages == [cases.QUESTION]


@pytest.mark.parametrize(
    "messages",
    (
        [], "Hello", None, {"role": "user", "content": "x"}, ["Hello"], [{"content": "x"}], [{"role": "user"}],
        [{"role": 1, "content": "x"}], [cases.QUESTION, {"role": "assistant", "content": None}],
        [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
    ),
)  # fmt: skip
def test_messages_that_are_none_are_named(tmp_path, as_users_run_it, messages):
    found = chatting(tmp_path, "smollm2")
    for call in (found.chat, found.chat_ids, found.conversation):
        assert '{"role": "user", "content": "Hello"}' in refusal(lambda call=call: call(messages))


def test_a_model_without_a_template_says_so(tmp_path):
    cases.byte_pairs().save(str(tmp_path / "tokenizer.json"))
    found = tokenizer.read(epath.Path(tmp_path))
    assert "has no chat template" in refusal(lambda: found.chat([cases.QUESTION])) and found.stop == ()


@pytest.mark.parametrize("missing", ("tokenizers", "jinja2"))
def test_what_is_missing_names_the_extra(tmp_path, monkeypatch, missing):
    found = chatting(tmp_path, "smollm2")
    chat_template._environment.cache_clear()
    chat_template._compiled.cache_clear()
    monkeypatch.setitem(sys.modules, missing, None)
    use = {"tokenizers": lambda: tokenizer.read(epath.Path(tmp_path)), "jinja2": lambda: found.chat([cases.QUESTION])}
    assert 'pip install "lora_jax[models]"' in refusal(use[missing])
    chat_template._environment.cache_clear()


@pytest.mark.parametrize(
    ("variables", "said"),
    (
        ({"continue_final_message": True}, "continue_final_message is no variable of a chat template"),
        ({"chat_template": "x"}, "chat_template is no variable"),
        ({"tools": [print]}, "expected a list of JSON schemas, as transformers.utils.get_json_schema"),
        ({"tools": "add"}, "tools are 'add'"),
        ({"documents": [1]}, "expected a list of objects with title and text"),
    ),
)
def test_what_is_no_variable_of_a_template_is_refused(tmp_path, variables, said):
    found = chatting(tmp_path, "qwen2.5")
    assert said in refusal(lambda: found.chat([cases.QUESTION], **variables))


def test_the_template_for_tools_is_taken_where_tools_are_given(tmp_path):
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    edited(tmp_path, "tokenizer_config.json", chat_template=named)
    found = tokenizer.read(epath.Path(tmp_path))
    assert found.chat([cases.QUESTION], tools=[{"a": 1}]) == "tools" and found.chat([cases.QUESTION]) == "plain"
    edited(tmp_path, "tokenizer_config.json", chat_template={"rag": "documents"})
    found = tokenizer.read(epath.Path(tmp_path))
    assert "no chat template called 'default'; choose of rag" in refusal(lambda: found.chat([cases.QUESTION]))


def test_an_assistant_that_calls_a_tool_may_say_nothing(tmp_path):
    found = with_template(tmp_path, "{% for m in messages %}{{ m.tool_calls or m.content }}<|im_end|>{% endfor %}")
    messages = [cases.QUESTION, {"role": "assistant", "tool_calls": ["f()"]}]
    assert answers(found, messages) == ["['f()']<|im_end|>"]


# Folders that contradict themselves


def test_special_tokens_that_are_named_alone_are_whole(tmp_path):
    made = json.loads(cases.byte_pairs().to_str()) | {"added_tokens": []}
    named = {"additional_special_tokens": ["<|im_start|>"], "eos_token": {"content": "<|im_end|>", "lstrip": True}}
    edited(tmp_path, "tokenizer_config.json", **named)
    (tmp_path / "tokenizer.json").write_text(json.dumps(made))
    found = tokenizer.read(epath.Path(tmp_path))
    assert found.encode("<|im_start|>  <|im_end|>") == [1, 2] and found.special == {0, 1, 2}
    assert len(found.encode("<|im_start|>")) == 1 and found.stop == (2,)
    assert found.variables["additional_special_tokens"] == ["<|im_start|>"]


def edited(folder, name: str, **said):
    cases.chat_folder(folder, "smollm2")
    found = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
    (folder / name).write_text(json.dumps(found | said))
    return lambda: tokenizer.read(epath.Path(folder))


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    (
        ("tokenizer_config.json", {"pad_token": "<nowhere>"}, "the pad_token '<nowhere>' is not in the vocabulary"),
        ("tokenizer_config.json", {"eos_token": 5}, "eos_token is 5"),
        ("tokenizer_config.json", {"eos_token": {"text": "x"}}, "expected the text of a token"),
        ("tokenizer_config.json", {"chat_template": 5}, "chat_template is 5"),
        ("tokenizer_config.json", {"chat_template": ["x"]}, "chat_template is ['x']"),
        ("tokenizer_config.json", {"tokenizer_class": []}, "tokenizer_class is []"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "y"}}}, "added_tokens_decoder names 'x'"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"7": {"content": "<new>"}}}, "7 is said"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"7": {}}}, "expected its content"),
        (
            "tokenizer_config.json",
            {"additional_special_tokens": ["<new>"]},
            "additional_special_tokens names '<new>', which is not in",
        ),
        ("tokenizer_config.json", {"additional_special_tokens": [5]}, "additional_special_tokens is"),
        ("special_tokens_map.json", {"eos_token": 5}, "eos_token is 5"),
        ("added_tokens.json", {"<new>": "x"}, "an integer"),
        ("generation_config.json", {"eos_token_id": "x"}, "eos_token_id is"),
        ("tokenizer.json", {"model": {"type": "nothing"}}, "tokenizer.json cannot be read"),
        ("tokenizer.json", {"version": 9}, "tokenizer.json cannot be read"),
    ),
)
def test_d6_files_that_say_what_cannot_be_are_named(tmp_path, name, fields, said):
    assert said in refusal(edited(tmp_path, name, **fields))


def test_d8_a_token_twice_is_refused(tmp_path):
    cases.merged(tmp_path, "GPT2Tokenizer", ("<|endoftext|>",))
    text = (tmp_path / "vocab.json").read_text()
    (tmp_path / "vocab.json").write_text(text.replace("{", '{"the":5,"the":6,', 1))
    assert '"the" is there twice' in refusal(lambda: tokenizer.read(epath.Path(tmp_path)))
    other = tmp_path / "words"
    other.mkdir()
    cases.word_pieces(other)
    (other / "vocab.txt").write_text((other / "vocab.txt").read_text() + "hello\n")
    assert "a word is there twice" in refusal(lambda: tokenizer.read(epath.Path(other)))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    (
        ("merges.txt", "a b c\n", "the merge 'a b c' is not a pair"),
        ("merges.txt", "qqq zzz\n", "its vocabulary cannot be used"),
        ("merges.txt", b"\xff\xfe", "is not UTF-8"),
        ("vocab.json", "[1]", "expected an object"),
        ("vocab.json", '{"a": "b"}', "an integer"),
        ("vocab.json", "{", "cannot be read as JSON"),
    ),
)
def test_vocabularies_that_cannot_be_are_named(tmp_path, name, content, said):
    cases.merged(tmp_path, "GPT2Tokenizer", ("<|endoftext|>",))
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert said in refusal(lambda: tokenizer.read(epath.Path(tmp_path)))


def test_a_class_that_is_not_known_needs_tokenizer_json(tmp_path):
    cases.merged(tmp_path, "CLIPTokenizer", ("<|endoftext|>",))
    assert "'CLIPTokenizer' is not known" in (said := refusal(lambda: tokenizer.read(epath.Path(tmp_path))))
    assert "others need tokenizer.json" in said
    cases.byte_pairs().save(str(tmp_path / "tokenizer.json"))
    assert tokenizer.read(epath.Path(tmp_path)).vocab_size > 256


@pytest.mark.parametrize("name", ("tokenizer.model", "tekken.json", "vocab.json"))
def test_a_vocabulary_that_only_others_read_says_how_to_convert_it(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    assert f"of its tokenizer only {name} is there, and tokenizer.json is needed" in refusal(
        lambda: tokenizer.read(epath.Path(tmp_path))
    )


def test_words_without_special_tokens_are_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    assert "[UNK], [CLS], [SEP], [PAD] is not in it" in refusal(lambda: tokenizer.read(epath.Path(tmp_path)))


def test_what_is_no_text_and_no_id_is_refused(tmp_path, as_users_run_it):
    found = chatting(tmp_path, "smollm2")
    assert "encodes text, not int" in refusal(lambda: found.encode(5))
    assert "cannot encode half a character (at place 5)" in refusal(lambda: found.encode("half \ud800"))
    assert "cannot decode" in refusal(lambda: found.decode([-1]))
    assert found.decode([10**6]) == ""


# Does it belong to the model?


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path):
    found = chatting(tmp_path, "smollm2")
    size = found.vocab_size

    def check(vocab_size, **values):
        tokenizer.require_vocabulary(found, vocab_size, values, "folder")

    check(size, bos_token_id=0, eos_token_id=[1, 2], pad_token_id=None)
    check(size + 64, pad_token_id=-1)
    assert f"ids up to {size - 1}, and the model {size - 1} tokens" in refusal(lambda: check(size - 1))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert f"{name} 100 is the ordinary token" in refusal(lambda name=name: check(size, **{name: 100}))
    assert f"eos_token_id {size} is no token of it" in refusal(lambda: check(size + 1, eos_token_id=[1, size]))
    assert "eos_token_id is 'x'" in refusal(lambda: check(size, eos_token_id="x"))
