"""A user's BERT on a user's sentences: is the model that was trained the one that is asked, and the one that is written?"""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax
from experiments.bert import wordpiece
from experiments.common.errors import UserError
from experiments.data import buckets
from experiments.data.sst2 import CLASSES, Texts
from experiments.sst2 import classifier as sst2_classifier
from experiments.sst2 import jobs as sst2_jobs
from experiments.sst2.classifier import RATES, Settings
from experiments.sst2.settings import OF_MINILM, PRESETS
from experiments.sst2.training import STEPS
from lora_jax.models import bert_folder
from lora_jax.models.bert import BertConfig, BertForSequenceClassification
from lora_jax.tree import flat, nested
from tests.experiments import tiny_bert
from tests.experiments.test_flags_and_errors import assert_one_sentence
from tests.experiments.test_sentences import as_jsonl, as_tsv

ENTRY = "bert_sst2.py"
WORDED = tiny_bert.texts(54, 0, (1, 5))  # one word decides, and a BERT of width 8 can learn which
ROWS = list(zip(WORDED.sentences, WORDED.labels.tolist(), strict=True))
ASKED = [ROWS[0][0], f"{'so ' * 30}bad", *(sentence for sentence, _ in ROWS[48:])]  # one too long, and the validation
BRIEF = ("--epochs=15", "--learning_rate=0.01")
TOLERANCE = 1e-5  # of logits of a merged model

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> pathlib.Path:
    """A BERT folder of width 8 without a head, sentences to train on, to validate on and to ask about."""
    home = tmp_path_factory.mktemp("home")
    vocabulary = [
        *wordpiece.SPECIAL,
        *tiny_bert.WORDS,
        *tiny_bert.GOOD,
        *tiny_bert.BAD,
    ]  # trained, it varies by process
    config = BertConfig(len(vocabulary), 8, 1, 2, 16, max_position_embeddings=16)
    shapes = jax.eval_shape(BertForSequenceClassification(config).init, jax.random.key(0), jnp.ones((1, 1), jnp.int32))
    random = np.random.default_rng(0)
    leaves = {path: weights(random, path, leaf.shape) for path, leaf in flat(shapes["params"]["bert"]).items()}
    bert_folder.write(home / "bert", config, {"bert": nested(leaves)})
    (home / "bert" / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (home / "train.tsv").write_text(as_tsv(ROWS[:48]))
    (home / "validation.jsonl").write_text(as_jsonl(ROWS[48:]))
    (home / "ask.txt").write_text("\n\n".join([ASKED[0], "\n".join(ASKED[1:])]))
    return home


def weights(random: np.random.Generator, path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Of a size that gives every word a say, which a fresh BERT's have not."""
    size = 0.1 if len(shape) == 1 else 0.9 if "word_embeddings" in path else 0.3
    return np.float32(size * random.normal(size=shape) + path.endswith("scale"))


@pytest.fixture(autouse=True)
def examples(monkeypatch):
    """Sentences of words that the tiny model knows."""
    monkeypatch.setattr(sst2_jobs, "EXAMPLES", ASKED[2:])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, pathlib.Path]:
    """Regime -> the workdir of its complete run, as far as there is one."""
    return {}


@pytest.fixture
def job(run_entry, home, tmp_path):
    def run(name: str, *arguments: str, workdir: pathlib.Path = tmp_path):
        given = [f"--{flag}" for flag in (f"job={name}", f"bert={home / 'bert'}", f"workdir={workdir}")]
        files = [f"--train_file={home / 'train.tsv'}", f"--validation_file={home / 'validation.jsonl'}"]
        return run_entry(ENTRY, *given, *files, *BRIEF, *arguments)

    return run


@pytest.fixture
def run(trained, job, tmp_path_factory, tmp_path):
    """`run(regime) -> folder`: a copy of the complete run, in tmp_path."""

    def get(regime: str) -> pathlib.Path:
        if regime not in trained:
            trained[regime] = tmp_path_factory.mktemp("trained")
            status, _, stderr = job("finetune", f"--regime={regime}", workdir=trained[regime])
            assert (status, stderr) == (0, "")
        shutil.copytree(trained[regime], tmp_path, dirs_exist_ok=True)
        (folder,) = tmp_path.glob("bert_sst2_finetune-*")
        return folder

    return get


def read(path: pathlib.Path) -> dict:
    return json.loads(path.read_text())


def logits_of(folder: pathlib.Path, sentences) -> np.ndarray:
    """What a Hugging Face folder says, read by itself, in one batch."""
    model = bert_folder.read(folder)
    tokenizer = wordpiece.of_folder(folder, model.config.vocab_size)
    tokenizer.enable_truncation(model.config.max_position_embeddings)
    tokenizer.enable_padding(length=model.config.max_position_embeddings)
    ids = jnp.asarray([encoding.ids for encoding in tokenizer.encode_batch(sentences)])
    classes = len(model.params["classifier"]["bias"])
    apply = jax.jit(BertForSequenceClassification(model.config, classes).apply)
    return np.asarray(apply({"params": model.params}, ids, ids != 0))


@pytest.mark.parametrize("regime", RATES)
def test_the_model_trained_is_the_one_asked_and_the_one_written(regime, run, job):
    folder = run(regime)
    status, stdout, _ = job("predict", f"--regime={regime}")
    assert status == 0
    predictions = read(folder / "predictions.json")["predictions"]
    assert predictions == read(folder / "summary.json")["examples"]  # to the last bit
    expected = [f"{p['label']} {p['probability']:.2f}  {p['sentence']}" for p in predictions]
    assert stdout.splitlines()[-len(expected) - 1 : -1] == expected
    logits = np.asarray([p["logits"] for p in predictions])
    np.testing.assert_allclose(logits, logits_of(folder / "merged", sst2_jobs.EXAMPLES), atol=TOLERANCE)
    assert np.ptp(logits, axis=0).min() > 1e4 * TOLERANCE  # so that what trained, and the order, would be missed


@pytest.mark.parametrize("regime", RATES)
def test_only_what_the_regime_trains_differs_from_the_base(regime, run, home):
    base, merged = (flat(bert_folder.read(path).params) for path in (home / "bert", run(regime) / "merged"))
    assert merged.keys() == base.keys() | {"classifier/kernel", "classifier/bias"}
    moved = {path for path, leaf in base.items() if not np.array_equal(leaf, merged[path])}
    pooler = {"bert/pooler/dense/kernel", "bert/pooler/dense/bias"}
    kernels = {path for path in base if "encoder" in path and path.endswith("kernel")}
    attention = {path for path in kernels if path.rpartition("/")[0].endswith(("query", "value"))}
    expected = {"head only": pooler, "LoRA": pooler | attention, "LoRA all linear": pooler | kernels, "full": set(base)}
    assert moved == expected[regime] and len(attention) == 2 and len(kernels) == 6


def test_the_summary_and_what_is_printed(run):
    folder = run("LoRA")
    summary, merged = read(folder / "summary.json"), flat(bert_folder.read(folder / "merged").params)
    assert (summary["sentences"], summary["batch_size"]) == (48, 4)
    assert summary["left_out_of_an_epoch"] == pytest.approx(8 / 48)
    assert summary["parameters"] == 2 * 8 * (8 + 8) + (8 * 8 + 8) + (8 * 2 + 2)  # query and value, pooler, classifier
    assert summary["base_parameters"] == sum(leaf.size for leaf in merged.values())
    assert (summary["settings"]["rank"], summary["settings"]["learning_rate"]) == (8, 0.01)
    assert len(summary["accuracies"]) == 15 + 1 and summary["majority"] == 0.5
    assert summary["losses"][-1] < summary["losses"][0] / 2
    assert not (folder / "phases").exists()
    table = (folder / "table.txt").read_text()
    assert "LoRA, rank 8, seed 0: 346 parameters" in table and "15 x 48 sentences in batches of 4" in table
    assert f"validation accuracy: {100 * summary['accuracy']:.2f} % of 6 sentences" in table


def test_the_written_folder_cuts_words_as_the_base_does(run, home):
    """A cased model's config says so; a vocabulary alone would be read as an uncased one's."""
    assert (run("LoRA") / "merged" / "vocab.txt").read_bytes() == (home / "bert" / "vocab.txt").read_bytes()


def test_a_complete_run_is_skipped_and_defaults_are_the_same_run(run, job):
    folder = run("LoRA")
    before = {
        path: path.stat().st_mtime_ns for path in folder.glob("**/*") if path.suffix in (".safetensors", ".jsonl")
    }
    status, stdout, _ = job("finetune", "--rank=8", "--seed=0", "--max_tokens=16")
    assert status == 0 and f"run: {folder} is complete" in stdout and "validation accuracy" in stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before and len(before) == 3


def test_an_interrupted_run_goes_on(run, job, monkeypatch):
    """Killed between training and the last file: the same command trains nothing again."""
    folder = run("head only")
    complete = read(folder / "summary.json")
    shutil.rmtree(folder)
    with monkeypatch.context() as patch:
        patch.setattr(sst2_jobs, "_write_merged", lambda *args: pathlib.Path("/nonexistent").read_text())
        with pytest.raises(FileNotFoundError):
            job("finetune", "--regime=head only")
    lines = (folder / "metrics.jsonl").read_text()
    assert not (folder / "summary.json").exists()
    status, _, _ = job("finetune", "--regime=head only")
    assert status == 0 and (folder / "metrics.jsonl").read_text() == lines
    assert read(folder / "summary.json") == complete


def test_a_damaged_adapter_is_mended_as_the_sentence_says(run, job):
    folder = run("head only")
    for path in (folder / "adapter").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:30])
    status, _, stderr = job("predict", "--regime=head only")
    assert status == 2
    assert_one_sentence(stderr, f"remove {folder / 'summary.json'}, then run --job=finetune with the same flags")
    (folder / "summary.json").unlink()
    assert job("finetune", "--regime=head only")[0] == 0
    assert job("predict", "--regime=head only")[0] == 0


def test_sentences_from_a_file(run, job, home):
    folder = run("LoRA")
    status, stdout, _ = job("predict", f"--sentences={home / 'ask.txt'}")
    lines = stdout.splitlines()
    assert status == 0 and lines[-1] == f"predictions: {folder / 'predictions.json'}"
    assert lines[0] == f"--sentences: {home / 'ask.txt'}: 1 empty sentence skipped"
    assert "data: 1 of 8 sentences are cut to 16 tokens; more than that the model cannot take" in lines
    predictions = read(folder / "predictions.json")["predictions"]
    assert [p["sentence"] for p in predictions] == ASKED == [line.split("  ", 1)[1] for line in lines[-9:-1]]
    probabilities = jax.nn.softmax(np.asarray([p["logits"] for p in predictions]))
    np.testing.assert_allclose([p["probability"] for p in predictions], np.max(probabilities, axis=1), rtol=1e-5)
    right = [CLASSES[label] == p["label"] for p, (_, label) in zip(predictions[2:], ROWS[48:], strict=True)]
    assert np.mean(right) == pytest.approx(read(folder / "summary.json")["accuracy"])


def test_e6_the_folder_of_a_run_is_enough_to_ask_it(run, run_entry, home):
    folder = run("LoRA")
    trained = read(folder / "summary.json")["examples"]
    status, stdout, stderr = run_entry(ENTRY, "--job=predict", f"--model={folder}")
    assert (status, stderr) == (0, "") and stdout.splitlines()[-1] == f"predictions: {folder / 'predictions.json'}"
    found = read(folder / "predictions.json")["predictions"]
    assert [line["label"] for line in found] == [line["label"] for line in trained]
    np.testing.assert_allclose([p["logits"] for p in found], [p["logits"] for p in trained], atol=TOLERANCE)
    same = (
        f"--bert={home / 'bert'}",
        "--rank=8",
        f"--train_file={home / 'train.tsv'}",
        f"--validation_file={home / 'validation.jsonl'}",
    )
    assert run_entry(ENTRY, "--job=predict", f"--model={folder}", *same)[0] == 0


CONTRADICTIONS = [
    ("--rank=4", "--rank=4 contradicts --model="), ("--regime=full", "--regime=full contradicts --model="), ("--seeds=2", "--seeds has no meaning"),
    ("--train_file=validation.jsonl", "the sentences that the flags name are not those of --model="),
    ("--bert=other", "that the flags name are not those of --model="),
]  # fmt: skip


@pytest.mark.parametrize(("flag", "part"), CONTRADICTIONS)
def test_e6_flags_that_contradict_the_run(flag, part, run, run_entry, home, monkeypatch):
    folder = run("LoRA")
    if not (home / "other").exists():
        tiny_bert.write(home / "other")
    monkeypatch.chdir(home)
    status, _, stderr = run_entry(ENTRY, "--job=predict", f"--model={folder}", flag)
    assert status == 2
    assert_one_sentence(stderr, part)


def test_e6_a_folder_that_is_no_finished_run(run_entry, tmp_path):
    status, _, stderr = run_entry(ENTRY, "--job=predict", f"--model={tmp_path}")
    assert status == 2
    assert_one_sentence(stderr, "it is no folder of a finished run of --job=finetune")


def test_e6_three_classes_from_a_table_to_predictions(run_entry, home, tmp_path):
    words, kinds = (*tiny_bert.GOOD, *tiny_bert.BAD)[:3], ("praise", "blame", "neither")
    rows = [f"{tiny_bert.WORDS[n % 7]} {words[n % 3]},{kinds[n % 3]}" for n in range(60)]
    (tmp_path / "mine.csv").write_text("text,category\n" + "\n".join(rows) + "\n")
    given = f"--bert={home / 'bert'}", f"--train_file={tmp_path / 'mine.csv'}", f"--workdir={tmp_path}"
    status, stdout, stderr = run_entry(ENTRY, "--job=finetune", *given, "--epochs=2")
    assert (status, stderr) == (0, "") and "3 classes: blame, neither, praise" in stdout
    (folder,) = tmp_path.glob("bert_sst2_finetune-*")
    expected = {"0": "blame", "1": "neither", "2": "praise"}
    config = read(folder / "merged" / "config.json")
    assert read(folder / "id2label.json") == config["id2label"] == expected
    assert config["label2id"] == {word: int(number) for number, word in expected.items()}
    status, stdout, _ = run_entry(ENTRY, "--job=predict", f"--model={folder}")
    assert status == 0 and {line.split()[0] for line in stdout.splitlines()[:-1]} <= set(expected.values())
    logits = [p["logits"] for p in read(folder / "predictions.json")["predictions"]]
    np.testing.assert_allclose(logits, logits_of(folder / "merged", sst2_jobs.EXAMPLES), atol=TOLERANCE)


@pytest.mark.parametrize("name", ["vocab.txt", "config.json"])
def test_d2_a_tokenizer_or_config_that_was_changed_is_no_run_s(run, run_entry, tmp_path, name):
    folder = shutil.copytree(run("LoRA"), tmp_path / "copy")
    text = (folder / "merged" / name).read_text()
    changed = text.replace('"gelu"', '"relu"') if name == "config.json" else text.replace("good", "goof")
    (folder / "merged" / name).write_text(changed if changed != text else text + "\n")
    status, _, stderr = run_entry(ENTRY, "--job=predict", f"--model={folder}")
    assert status == 2
    assert_one_sentence(stderr, f"merged/{name} is not what its run wrote")


def test_d8_what_a_sentence_does_to_a_terminal_is_spelt_out(run, run_entry, tmp_path):
    (tmp_path / "ask.txt").write_text("a \x1b[2J film\n")
    status, stdout, _ = run_entry(
        ENTRY, "--job=predict", f"--model={run('LoRA')}", f"--sentences={tmp_path / 'ask.txt'}"
    )
    assert status == 0 and "\x1b" not in stdout and r"a \x1b[2J film" in stdout


def test_e6_the_peft_folder_is_what_was_trained(run, home):
    """Read by `lora_jax.peft`, on a base with another head; tests/interop asks real PEFT."""
    folder = run("LoRA")
    base = bert_folder.read(home / "bert")
    model = BertForSequenceClassification(base.config)
    ids = jnp.ones((1, 8), jnp.int32)
    params, _ = bert_folder.initialised(model, jax.random.key(7), {"bert": base.params["bert"]})
    back = lora_jax.peft.load(folder / "peft", params, lora_jax.layout(model, ids))
    merged, written = flat(lora_jax.merge(back.params)), flat(bert_folder.read(folder / "merged").params)
    assert merged.keys() == written.keys()
    for path, leaf in merged.items():
        np.testing.assert_allclose(leaf, written[path], atol=1e-6, err_msg=path)
    assert read(folder / "peft" / "adapter_config.json")["task_type"] == "SEQ_CLS"


def test_predict_asks_for_finetune(job, tmp_path):
    status, _, stderr = job("predict")
    assert status == 2
    assert_one_sentence(stderr, "holds no fine-tuned model yet; run --job=finetune with the same flags first")


def test_training_that_diverges_is_a_sentence(job):
    status, _, stderr = job("finetune", "--regime=head only", "--learning_rate=1e30", "--epochs=1")
    assert status == 2
    assert_one_sentence(
        stderr, "training diverged at --learning_rate=1e+30: the loss is no longer finite; take a lower one"
    )


MISTAKES = [
    ("finetune", ["--regime=lora"], "--regime: there is no regime 'lora'; there are LoRA, head only, full, LoRA all linear"),
    ("finetune", ["--rank=9"], "--rank: 9 is above 8, the width of this model"),
    ("finetune", ["--regime=full", "--rank=2"], "--rank has no meaning with --regime=full, which has no adapter"),
    ("finetune", ["--max_tokens=17"], "--max_tokens: 17 is above 16, the positions that this model has"),
    ("finetune", ["--batch_size=5"], "10 batches of 5 run as one, and there are 48 sentences to train on; 4 is the most"),
    ("finetune", ["--train_limit=9"], "there are 9 sentences to train on, which is too few; 10 or more are needed"),
    ("finetune", ["--train_limit=1"], "--train_limit=1: no sentence that is drawn has the label '"),
    ("finetune", ["--sentences=a.txt"], "--sentences has no meaning with --job=finetune, only with predict"),
    ("finetune", ["--seeds=2"], "--seeds has no meaning with --job=finetune, where one model is trained"),
    ("predict", ["--ranks=1,2"], "--ranks has no meaning with --job=predict"),
    ("predict", ["--regimes=LoRA"], "--regimes has no meaning with --job=predict"),
    ("predict", ["--sentences=absent.txt"], "--sentences: absent.txt: there is no such file"),
    ("finetune", ["--train_file=absent.tsv"], "--train_file: absent.tsv: there is no such file"),
    ("finetune", ["--validation_file=absent.csv"], "--validation_file: absent.csv: there is no such file"),
    ("finetune", ["--data_dir=x"], "--data_dir has no meaning with --train_file"),
    ("finetune", ["--bert=/nonexistent"], "/nonexistent: there is no such folder"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "part"), MISTAKES)
def test_mistakes(name, given, part, job):

    status, _, stderr = job(name, *given)
    assert status == 2
    assert_one_sentence(stderr, part)


@pytest.mark.parametrize("flag", ["--rank=2", "--regime=LoRA", "--seed=1", "--sentences=a.txt", "--batch_size=8"])
def test_flags_of_the_jobs_mean_nothing_to_the_study(flag, run_entry):
    status, _, stderr = run_entry(ENTRY, flag)
    assert status == 2
    assert_one_sentence(stderr, f"{flag.partition('=')[0]} has no meaning with --job=study")


def test_without_files_it_is_sst2(run_entry, home):
    status, _, stderr = run_entry(ENTRY, "--job=finetune", f"--bert={home / 'bert'}", "--data_dir=/nonexistent")
    assert status == 2
    assert_one_sentence(stderr, "--data_dir=/nonexistent: there is no such folder; name one that holds glue/sst2/")


def test_a_validation_file_needs_a_training_file(run_entry, home):
    status, _, stderr = run_entry(ENTRY, "--job=finetune", f"--validation_file={home / 'validation.jsonl'}")
    assert status == 2
    assert_one_sentence(stderr, "--validation_file has no meaning without --train_file")


# What is settled without being said.


def test_a_wider_model_takes_lower_rates():
    def rate(width, regime="LoRA", given=None):
        return Settings(regime, learning_rate=given).for_base(BertConfig(hidden_size=width)).learning_rate

    assert [rate(width) for width in (8, 128, 768)] == [1e-3, 1e-3, 1.7e-4]
    assert rate(768, "full") == 1.7e-5 and rate(768, given=0.1) == 0.1


def test_what_the_base_settles_is_the_same_as_given():
    config = BertConfig(max_position_embeddings=64)
    assert Settings().for_base(config) == Settings(rank=8, max_tokens=64, learning_rate=1e-3).for_base(config)
    assert Settings("full", rank=8).for_base(config) == Settings("full").for_base(config)
    assert Settings().for_base(BertConfig()).max_tokens == 72
    with pytest.raises(UserError, match="--rank: 8 is above 4"):
        Settings().for_base(BertConfig(hidden_size=4))


@pytest.mark.parametrize(
    ("sizes", "batch_size"), [((10,), 1), ((50,), 4), ((330,), 32), ((620, 620), 16), ((5000,) * 3, 32)]
)
def test_batches_fit_the_data(sizes, batch_size):
    """As large as may be, up to 32, but small enough that an epoch leaves little out."""
    made = [
        buckets.Bucket(8 * n, np.arange(size), np.ones((size, 8 * n), np.int32), np.zeros(size, np.int32))
        for n, size in enumerate(sizes, 1)
    ]
    found, merged, left_out = sst2_jobs._batches(Settings(), made)
    assert found == batch_size and sum(len(bucket.rows) for bucket in merged) == sum(sizes)
    assert left_out <= sst2_jobs.MOST_LEFT_OUT


@pytest.mark.parametrize(("longest", "lengths"), [(5, [5]), (72, [8, 72]), (100, [8, 100]), (512, [8, 144])])
def test_longer_sentences_have_longer_buckets(longest, lengths, home, capsys):
    tokenizer = wordpiece.of_folder(home / "bert", 512)
    model = BertForSequenceClassification(BertConfig())
    classifier = sst2_classifier.Classifier(Settings(max_tokens=longest), model, {}, tokenizer)
    texts = Texts(("a joy", "a " * 120), np.zeros(2, np.int32))
    assert [bucket.length for bucket in classifier.encode(texts, "sentences")] == lengths
    expected = (
        "" if longest == 512 else f"data: 1 of 2 sentences are cut to {longest} tokens; --max_tokens takes up to 512\n"
    )
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("presets", [PRESETS, OF_MINILM])
def test_every_preset_fills_the_batches_of_one_program(presets):
    for settings in presets.values():
        for limit in (settings.train_limit, settings.scaling_limit):
            assert limit is None or limit >= STEPS * settings.batch_size


def test_each_preset_and_regime_has_its_settings():
    assert set(sst2_jobs.PRESETS) == {"smoke", "quick", "full"}
    assert RATES.keys() == sst2_classifier.TRAINED.keys()
