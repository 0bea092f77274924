"""Masking, the teacher's vectors, and a run of each method on a few sentences with tiny models."""

import dataclasses
import gzip
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bert import corpus as bert_corpus
from experiments.bert import objective as bert_objective
from experiments.bert import pretraining as bert_pretraining
from experiments.bert import teacher as bert_teacher
from experiments.bert import wordpiece
from experiments.common import recording
from experiments.data import text
from lora_jax.models import bert, bert_folder
from tests.experiments import tiny_bert

pytestmark = pytest.mark.usefixtures("quick_compile")

MASK, SIZE = 4, 50
TINY = dataclasses.replace(
    bert_pretraining.PRESETS["smoke"],
    vocab_size=150, tokens_per_batch=256, hidden_size=8, intermediate_size=16, learning_rate=1e-2, epochs=2,
)  # fmt: skip


def rows(key, n: int = 64, length: int = 16) -> jax.Array:
    """[CLS] words [SEP] padding, of unequal lengths from 1 word up."""
    ids = jax.random.randint(key, (n, length), 5, SIZE)
    size = 3 + jnp.arange(n) % (length - 2)
    place = jnp.arange(length)[None]
    ids = jnp.where(place == 0, 2, ids)
    ids = jnp.where(place == size[:, None] - 1, 3, ids)
    return jnp.where(place < size[:, None], ids, 0).astype(jnp.int32)


def test_special_tokens_are_never_masked_and_every_row_has_its_share(key):
    ids = rows(key)
    seen, positions, weight = bert_objective.masked(ids, key, mask_id=MASK, vocab_size=SIZE)
    changed = np.asarray(seen != ids)
    assert not changed[np.asarray(ids) < 5].any()
    chosen = np.zeros(ids.shape, bool)
    for row in range(len(ids)):
        chosen[row, np.asarray(positions[row])[np.asarray(weight[row]) > 0]] = True
    assert not (changed & ~chosen).any()
    words = np.asarray((ids >= 5).sum(axis=1))
    np.testing.assert_array_equal(chosen.sum(axis=1), np.maximum(1, np.round(0.15 * words)))


def test_four_fifths_become_mask_and_a_tenth_stays(key):
    ids = rows(key, n=4096)
    seen, positions, weight = bert_objective.masked(ids, key, mask_id=MASK, vocab_size=SIZE)
    chosen = np.asarray(weight) > 0
    new, old = (np.asarray(jnp.take_along_axis(x, positions, axis=1))[chosen] for x in (seen, ids))
    n = chosen.sum()
    assert abs((new == MASK).mean() - 0.8) < 4 * np.sqrt(0.16 / n)
    same = 0.1 + 0.1 / (SIZE - 5)  # a random token can be the old one
    assert abs((new == old).mean() - same) < 4 * np.sqrt(same / n)


def test_the_masked_loss_is_that_of_the_masked_tokens(key):
    """Against the whole logits, gathered and averaged by hand."""
    config = bert.BertConfig(SIZE, 8, 1, 2, 16, max_position_embeddings=16)
    model, ids = bert.BertForMaskedLM(config), rows(key, n=8)
    params = {"student": jax.tree.map(lambda x: x * 5, model.init(key, ids)["params"])}
    loss, _ = bert_objective.make_loss(config, MASK, scored_rows=0.5)(params, {"ids": ids}, key)
    seen, positions, weight = bert_objective.masked(ids, key, mask_id=MASK, vocab_size=SIZE)
    logs = jax.nn.log_softmax(model.apply({"params": params["student"]}, seen, seen != 0))
    losses = [
        -logs[row, p, ids[row, p]] for row in range(4) for p, w in zip(positions[row], weight[row], strict=True) if w
    ]
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)


def test_the_distances_to_the_teacher_are_cosines_at_first_pieces_and_of_the_pooled_output(key):
    config = bert.BertConfig(SIZE, 8, 1, 2, 16, max_position_embeddings=16)
    model, ids = bert.BertForMaskedLM(config), rows(key, n=4)
    k = jax.random.split(key, 5)
    params = {
        "student": jax.tree.map(lambda x: x * 5, model.init(key, ids)["params"]),
        "word_map": jax.random.normal(k[0], (8, 8)),
        "sentence_map": jax.random.normal(k[1], (8, 8)),
    }
    first = jax.random.bernoulli(k[2], 0.5, ids.shape)
    words = jnp.where(first[..., None], jax.random.normal(k[3], (*ids.shape, 8)), 0).astype(jnp.float16)
    sentence = jax.random.normal(k[4], (4, 8)).astype(jnp.float16)
    batch = {"ids": ids, "words": words, "sentence": sentence}
    loss, parts = bert_objective.make_loss(config, MASK, scored_rows=0.5)(params, batch, key)
    seen, _, _ = bert_objective.masked(ids, key, mask_id=MASK, vocab_size=SIZE)
    seen = jnp.concatenate([seen[:2], ids[2:]])  # the rows that are not scored are seen whole
    states, pooled = bert.BertModel(config).apply({"params": params["student"]["bert"]}, seen, seen != 0)

    def distances(x, y):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return 1 - (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)

    parts = {name: total / count for name, (total, count) in parts.items()}
    at = np.asarray(first)
    np.testing.assert_allclose(
        parts["words"], distances((states[-1] @ params["word_map"])[at], words[at]).mean(), rtol=1e-4
    )
    np.testing.assert_allclose(
        parts["sentence"], distances(pooled @ params["sentence_map"], sentence).mean(), rtol=1e-4
    )
    np.testing.assert_allclose(loss, parts["words"] + parts["sentence"] + 0.1 * parts["mlm"], rtol=1e-5)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> bert_teacher.Teacher:
    return bert_teacher.load(str(tiny_bert.write(tmp_path_factory.mktemp("teacher"), layers=2)))


def test_a_words_vector_is_the_mean_over_its_pieces(teacher):
    """Sentence by sentence without padding, and PCA that keeps everything is a rotation: inner products stay."""
    words = [["lovely", "plot", "unheard"], ["a", "dull", "film", "but", "short"]]
    project = bert_teacher.Projector(teacher, 8, words * 3)
    found = project(words)
    vectors = []
    for sentence in words:
        encoding = teacher.tokenizer.encode(sentence, is_pretokenized=True)
        hidden = bert.BertModel(teacher.folder.config).apply(
            {"params": teacher.folder.params["bert"]}, jnp.asarray([encoding.ids])
        )[0][1][0]  # the middle one of two layers
        owner = np.asarray([-1 if w is None else w for w in encoding.word_ids])
        assert (np.bincount(owner[owner >= 0]) > 1).any() or "unheard" not in sentence
        vectors.append(np.stack([np.asarray(hidden)[owner == w].mean(0) for w in range(len(sentence))]))
    centred = np.concatenate(vectors) - project.word_basis.mean
    ours = np.concatenate(found.word_vectors).astype(np.float32)
    np.testing.assert_allclose(ours @ ours.T, centred @ centred.T, atol=0.02 * np.abs(centred @ centred.T).max())
    assert project.word_basis.share == pytest.approx(1.0, abs=1e-4)


def test_targets_survive_their_file(teacher, tmp_path):
    words = [["lovely", "plot"], ["dull"]]
    targets = bert_teacher.Projector(teacher, 4, words * 3)(words)
    bert_teacher.save(tmp_path / "targets.npz", targets)
    again = bert_teacher.read(tmp_path / "targets.npz")
    assert again.words == words
    for ours, theirs in zip(again.word_vectors, targets.word_vectors, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(again.sentence_vectors, targets.sentence_vectors)


def test_examples_are_sentences_and_every_other_one_a_span(teacher, monkeypatch):
    monkeypatch.setattr(bert_teacher, "SHARD", 20)
    sentences = [" ".join(f"w{i}x{j}" for j in range(20)) for i in range(50)]
    shards = [bert_teacher.examples(sentences, teacher.tokenizer, shard) for shard in (0, 1)]
    joined = {" ".join(words) for shard in shards for words in shard[0::2]}
    assert joined <= set(sentences) and len(joined) == 20
    for words in shards[0][1::2]:
        assert 3 <= len(words) <= 12 and any(" ".join(words) in sentence for sentence in sentences)
    assert shards[0] == bert_teacher.examples(sentences, teacher.tokenizer, 0)


@pytest.fixture
def corpus(tmp_path) -> str:
    texts = tiny_bert.texts(400, 5, lengths=(5, 14)).sentences
    lines = [
        json.dumps({"text": ". ".join(s.capitalize() for s in texts[i : i + 10]) + "."}) for i in range(0, 400, 10)
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    return str(tmp_path / "corpus.jsonl")


@pytest.fixture
def small(monkeypatch):
    """A smoke preset that a few hundred sentences are enough for."""
    monkeypatch.setattr(bert_teacher, "SHARD", 180)
    monkeypatch.setattr(bert_pretraining, "SHARD", 180)
    monkeypatch.setattr(bert_pretraining, "STEPS", 2)
    monkeypatch.setitem(bert_pretraining.PRESETS, "smoke", TINY)


def test_an_interrupted_run_goes_on_with_its_vocabulary(small, corpus, tmp_path, run_entry, monkeypatch):
    """A vocabulary trained again could be numbered otherwise."""
    command = ["pretrain_bert.py", "--preset=smoke", "--method=mlm", f"--corpus={corpus}", f"--workdir={tmp_path}/runs"]
    with monkeypatch.context() as patch:
        patch.setattr(bert_pretraining, "_train", lambda *args: pathlib.Path("/nonexistent").read_text())
        with pytest.raises(FileNotFoundError):
            run_entry(*command)
    (kept,) = tmp_path.glob(f"runs/pretrain_bert-*/{bert_pretraining.VOCABULARY}")
    run = recording.run_of("pretrain_bert", json.loads((kept.parent / "config.json").read_text()))
    tokens = recording.read_sealed(kept, run)["value"]
    tokens[-1], tokens[-2] = tokens[-2], tokens[-1]  # another numbering
    recording.write_sealed(kept, {"run": run, "value": tokens}, run)
    assert run_entry(*command)[0] == 0
    assert (kept.parent / "model" / "vocab.txt").read_text().splitlines() == tokens


def test_where_a_line_has_its_text_is_part_of_what_is_learned_from(corpus):
    one, other = (bert_corpus.Material((corpus,), field, None) for field in ("text", "title"))
    assert one.checksum != other.checksum


@pytest.mark.parametrize("method", ["mlm", "distil"])
def test_a_student_learns_and_is_written_as_a_folder(method, small, corpus, tmp_path, run_entry):
    teacher = tiny_bert.write(tmp_path / "teacher", layers=2)
    command = [
        "pretrain_bert.py",
        "--preset=smoke",
        f"--corpus={corpus}",
        f"--method={method}",
        f"--workdir={tmp_path}/runs",
    ]
    command += [f"--teacher={teacher}"] if method == "distil" else []
    status, out, err = run_entry(*command, f"--export={tmp_path}/model")
    assert (status, err) == (0, "")
    (folder,) = pathlib.Path(tmp_path).glob("runs/pretrain_bert-*")
    summary = json.loads((folder / "summary.json").read_text())
    first, last = summary["history"][0], summary["history"][-1]
    for name in ("mlm", "words") if method == "distil" else ("mlm",):
        assert last[name] < first[name]
    student = bert_folder.read(tmp_path / "model")
    assert student.config.hidden_size == 8 and {"bert", "cls"} <= student.params.keys()
    wordpiece.of_folder(tmp_path / "model", student.config.vocab_size)
    status, out, _ = run_entry(*command)
    assert status == 0 and "is complete" in out


def test_sentences_end_where_sentences_end(tmp_path):
    (tmp_path / "a.txt").write_text("It rains in the city. “Does it now?” she asked him. No.\nA line of its own here")
    assert text.sentences([str(tmp_path / "a.txt")]) == [
        "It rains in the city.", "“Does it now?” she asked him.", "A line of its own here",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl", "a.jsonl.gz"])
def test_a_corpus_in_a_bucket(name, bucket):
    content = "A café.\n" if ".txt" in name else '{"text": "A café.\\n"}\n\n'
    data = content.encode()
    (bucket / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (document,) = text.documents([f"gs://bucket/{name}"])
    assert document.strip() == "A café."


DAMAGED = gzip.compress(b"Here is one good sentence.")[:10] + b"\xff" * 40

BAD = [
    ({}, [], "--corpus is missing"),
    ({}, ["--corpus=nowhere.txt"], "there is no file nowhere.txt"),
    ({"a.pdf": b"x"}, ["--corpus=a.pdf"], "a.pdf is of no known kind; give .txt or .jsonl"),
    ({"a.txt": b"\xff\xfe\x00"}, ["--corpus=a.txt"], "a.txt cannot be read (UnicodeDecodeError"),
    ({"a.txt.gz": b"not gzip"}, ["--corpus=a.txt.gz"], "a.txt.gz cannot be read (BadGzipFile"),
    ({"a.jsonl": b'{"body": "x"}'}, ["--corpus=a.jsonl"], "line 1 of a.jsonl has no text under 'text', only body; see --field"),
    ({"a.jsonl": b"{"}, ["--corpus=a.jsonl"], "line 1 of a.jsonl cannot be read as JSON"),
    ({"a.jsonl": b'\n{"text": "\\ud800"}\n\n'}, ["--corpus=a.jsonl"], "line 2 of a.jsonl cannot be read as JSON ('utf-8' codec can't encode"),
    ({"a.txt.gz": DAMAGED}, ["--corpus=a.txt.gz"], "a.txt.gz cannot be read (error: Error -3"),
    ({"a.txt": b"Too few."}, ["--corpus=a.txt"], "there is no sentence of 4 to 40 words in a.txt"),
    ({"a.txt": b"Here is one good sentence."}, ["--corpus=a.txt"], "the corpus has 1 sentences, enough for 0 files"),
    ({"a.txt": b"Here is one good sentence."}, ["--corpus=a.txt", "--method=mlm"], "--method=mlm needs --vocab_size"),
    ({"a.txt": b"x"}, ["--corpus=a.txt", "--method=mlm", "--vocab_size=100", "--teacher=x"], "--teacher has no meaning with --method=mlm"),
    ({"a.txt": b"Here is one good sentence."}, ["--corpus=a.txt", "--teacher=no/such/place"], "no/such/place: there is no such folder"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "arguments", "sentence"), BAD, ids=[case[2][:40] for case in BAD])
def test_bad_input_is_one_sentence(files, arguments, sentence, tmp_path, run_entry, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    if not any(argument.startswith(("--teacher", "--method")) for argument in arguments):
        arguments = [*arguments, f"--teacher={tiny_bert.write(tmp_path / 'teacher')}"]
    status, _, err = run_entry("pretrain_bert.py", "--preset=quick", *arguments)
    assert status == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and sentence in err
