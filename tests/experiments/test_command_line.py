"""Rows E1 to E6 of the faults: help in a second, junk in every flag, closed pipes and Ctrl-C, memory, the smoke preset, data of a user's."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments.common import cli, interrupts, memory, options, paths, smoke, usage
from experiments.common.errors import UserError
from experiments.common.figures import style
from experiments.data import text
from experiments.linear import study as linear
from experiments.lm import corpus as lm_text
from experiments.lm import pretraining_settings as lm_pretraining
from experiments.rank import settings as rank_settings
from experiments.sst2 import labels, sentences
from lora_jax.models.causal_lm import PRESETS as LANGUAGE_MODELS
from tests.experiments import entries
from tests.experiments.one_part import ONE_PART
from tests.experiments.test_flags_and_errors import assert_one_sentence

ENTRIES = sorted(path.name for path in entries.FOLDER.glob("*.py") if path.name != "__init__.py")
HEAVY = ("jax", "flax", "optax", "orbax", "tensorflow", "tensorflow_datasets", "matplotlib", "scipy", "numpy")
JUNK = (
    "",
    "nan",
    "inf",
    "-inf",
    "-1",
    "1e400",
    str(2**63),
    "9" * 30,
    "x",
    "1.5",
    "http://h/x",
    "gs://bucket",
    "a,,b",
    ",",
    "\n",
    "\udcff",
    "²",
    "٣",
)


@pytest.fixture
def started(monkeypatch, capsys):
    """`started(entry, *arguments) -> (status, stdout, stderr, {flag: value})`: flags are read, and nothing is run."""
    seen: dict[str, object] = {}

    def no_run(main):
        seen.update({flag.name: flag.value for flag in usage.own()})

    def start(entry: str, *arguments: str):
        seen.clear()
        return entries.execute(entry, *arguments), *capsys.readouterr(), dict(seen)

    monkeypatch.setattr(cli, "guarded", no_run)
    return start


def command(entry: str, *arguments: str) -> list[str]:
    return [sys.executable, str(entries.FOLDER / entry), *arguments]


# E1: help.


@pytest.mark.parametrize("entry", ENTRIES)
def test_e1_help_shows_every_flag_with_its_default_and_loads_nothing_heavy(entry):
    look = f"import sys, atexit; atexit.register(lambda: print(*[m for m in {HEAVY} if m in sys.modules], file=sys.stderr)); "
    run = f"import runpy; sys.argv = ['{entry}', '--help']; runpy.run_path({str(entries.FOLDER / entry)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", look + run], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    shown = done.stdout.split("\n\n  --")[1:]
    heads = {part.split("\n")[0].split("=")[0].removeprefix("[no]") for part in shown}
    source = (entries.FOLDER / entry).read_text()
    assert {"workdir", "preset", "accelerator"} <= heads and "experiments/" + entry in done.stdout
    assert all(
        "default" in " ".join(part.split()) or "required" in part or "not for this entry" in " ".join(part.split())
        for part in shown
    ), shown
    assert "prepared of the" not in done.stdout and source.count("define_") > 2


@pytest.mark.parametrize("flag", ["-h", "--help", "-help", "--helpshort", "--helpfull"])
def test_e1_every_way_to_ask_for_help(flag, run_entry):
    status, stdout, stderr = run_entry("rank_sweep.py", "--ranks=2", flag)
    assert (
        (status, stderr) == (0, "")
        and "--ranks=N,..." in stdout
        and "1,2,4,8,16,32 (quick, full)" in " ".join(stdout.split())
    )
    assert ("--verbosity" in stdout) == (flag == "--helpfull")


def test_e1_defaults_are_those_of_the_presets(run_entry):
    _, stdout, _ = run_entry("linear_teacher.py", "--help")
    expected = options.by_preset(linear.PRESETS, "seeds")
    assert expected == "by default 2 (smoke), 5 (quick), 10 (full)" and expected in " ".join(stdout.split())


def test_e1_sizes_are_those_of_the_models():
    assert tuple(LANGUAGE_MODELS) == lm_pretraining.SIZES


# E2: values.


@pytest.mark.parametrize("entry", ENTRIES)
def test_e2_junk_in_every_flag_is_one_sentence_or_a_value_that_can_be(entry, started):
    _, _, _, values = started(entry)
    for name in values:
        for junk in JUNK:
            status, _, stderr, found = started(entry, f"--{name}={junk}")
            if status:
                assert status == 1
                assert_one_sentence(stderr, "see --help")
                assert len(stderr) < 900
                continue
            assert junk.strip() and "\udcff" not in junk  # nothing is no value
            if isinstance(found[name], float):
                assert np.isfinite(found[name])
            if isinstance(found[name], int) and not isinstance(found[name], bool):
                assert 0 <= found[name] < 2**53


NONE = [
    ("bert_sst2.py", "learning_rate", "0"), ("bert_sst2.py", "seed", str(2**32)), ("bert_sst2.py", "dropout", "nan"),
    ("bert_sst2.py", "dropout", "1"), ("tiny_lm.py", "learning_rate", "0"), ("finetune_lm.py", "alpha", "nan"),
    ("finetune_lm.py", "alpha", str(2**63)), ("finetune_lm.py", "targets", ""), ("finetune_lm.py", "temperature", "inf"),
    ("finetune_lm.py", "top_p", "0"), ("tiny_lm.py", "epochs", str(10**9)), ("finetune_lm.py", "dropout", "1"),
    ("finetune_lm.py", "lora_plus", "0"), ("finetune_lm.py", "dtype", "float16"), ("finetune_lm.py", "length", "1"),
    ("finetune_lm.py", "data", ""), ("finetune_lm.py", "regime", "qlora"), ("finetune_lm.py", "steps", "0"),
    ("finetune_lm.py", "init", "svd"), ("rank_sweep.py", "learning_rates", "1e-3,inf"), ("bert_sst2.py", "train_file", ""),
    ("bert_sst2.py", "max_tokens", "2"),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "name", "value"), NONE)
def test_e2_values_without_sense(entry, name, value, started):
    status, _, stderr, _ = started(entry, f"--{name}={value}")
    assert status == 1
    assert_one_sentence(stderr, f"--{name}={value}: ")


def test_e2_the_ends_of_a_range_are_values(started):
    for given in (["--seed=0"], [f"--seed={2**32 - 1}"], ["--dropout=0"], ["--dropout=0.9"], ["--learning_rate=1e-12"]):
        assert started("bert_sst2.py", "--job=finetune", *given)[0] == 0
    assert started("finetune_lm.py", "--temperature=0", "--top_k=0", "--top_p=1", "--dropout=0")[0] == 0


@pytest.mark.parametrize(
    ("given", "close"),
    [("--seedz=1", "--seeds"), ("--work-dir=x", "--workdir"), ("--rank=2", "--ranks"), ("--qqqq", "")],
)
def test_e2_an_unknown_flag_names_the_closest(given, close, started):
    status, _, stderr, _ = started("rank_sweep.py", given)
    assert status == 1
    assert_one_sentence(stderr, f"(did you mean {close}?)" if close else "there is no flag --qqqq; see --help")


def test_e2_a_rate_at_which_all_diverges(run_entry, small_mnist, monkeypatch, tmp_path, quick_compile):
    from experiments.data import mnist

    monkeypatch.setattr(mnist, "load", lambda *args, **kwargs: small_mnist)
    monkeypatch.setattr(rank_settings, "HIDDEN", (8, 8, 8))
    status, _, stderr = run_entry(
        "rank_sweep.py",
        "--preset=smoke",
        f"--learning_rates={2**63}",
        "--ranks=1",
        "--seeds=1",
        f"--workdir={tmp_path}",
    )
    assert status == 2
    assert_one_sentence(stderr, "training diverged at every learning rate of LoRA; give lower --learning_rates")


# E3: pipes, signals, paths, the environment.


def test_e3_a_reader_that_leaves_ends_it_as_any_tool():
    with subprocess.Popen(
        command("rank_sweep.py", "--helpfull"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        said = process.stderr.read()
        process.wait(60)
    assert (process.returncode, said) == (-signal.SIGPIPE, b"")


@pytest.mark.parametrize("entry", ["tiny_lm.py", "reproduce.py", "benchmark.py", "on_gpu.py"])
@pytest.mark.parametrize("after", [0.5, 1.5])
def test_e3_ctrl_c_in_the_first_seconds(entry, after, tmp_path):
    started = command(entry, "--preset=smoke", f"--workdir={tmp_path}")
    with subprocess.Popen(
        started, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        time.sleep(after)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: its children get it, too
        said = process.stderr.read()
        process.wait(60)
    assert process.returncode == 130
    assert said.strip().splitlines()[-1] == "Interrupted: what is saved stays, and the same command goes on from there."
    assert "Traceback" not in said


def test_e3_ctrl_c_does_not_wait_for_a_compiler():
    """The main thread is kept by something that runs no step of Python's: so a compiler keeps it."""
    program = (
        f"import hashlib, sys; sys.path.insert(0, {str(entries.REPOSITORY)!r}); from experiments.common import interrupts; "
        "interrupts.take_over(); print('ready', flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == interrupts.INTERRUPTED and said.strip().startswith("Interrupted: ")
    assert len(said.strip().splitlines()) == 1


def test_e3_home_is_expanded_in_every_path(started, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    values = started(
        "bert_sst2.py", "--workdir=~/a", "--train_file=~/b.csv", "--bert=~/c", "--model=~", "--data_dir=~/d"
    )[3]
    assert [values[name] for name in ("workdir", "train_file", "bert", "model", "data_dir")] == [
        "/home/me/a", "/home/me/b.csv", "/home/me/c", "/home/me", "/home/me/d",
    ]  # fmt: skip
    assert started("tiny_lm.py", "--corpus=~/a.txt,b.txt")[3]["corpus"] == ["/home/me/a.txt", "b.txt"]


PATHS = [
    ("http://host/x", "nothing here reads http: paths"), ("file:///tmp/x", "nothing here reads file: paths"),
    ("gs:/bucket", "nothing here reads gs: paths"),
    ("~nobody-here/x", "there is no user 'nobody-here'"), ("a" * 300, "a name has at most 255 bytes"), ("a/" * 3000, "a path 4,095"),
    ("  ", "it is empty"), ("gs://bucket/x", "gs:// needs the package gcsfs, which is not installed: pip install -e '.[gcs]'"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "part"), PATHS)
def test_e3_what_is_no_path(path, part, started, monkeypatch):
    monkeypatch.setattr(paths.importlib.util, "find_spec", lambda name: None)
    status, _, stderr, _ = started("linear_teacher.py", f"--workdir={path}")
    assert status == 1
    assert_one_sentence(stderr, part)


def test_e3_a_name_that_is_not_utf8(started):
    status, _, stderr, _ = started("linear_teacher.py", "--workdir=/tmp/\udcff")
    assert status == 1
    assert_one_sentence(stderr, r"'--workdir=/tmp/\udcff' is not UTF-8")


VARIABLES = [
    ({"SLURM_NTASKS": "x"}, None), ({"SLURM_NTASKS": "", "SLURM_JOB_ID": "1"}, None), ({"SLURM_NTASKS": "1", "SLURM_JOB_ID": "1"}, None),
    ({"SLURM_NTASKS": "x", "SLURM_JOB_ID": "1"}, "SLURM_NTASKS='x' in the environment is no number of processes"),
    ({"SLURM_NTASKS": "-2", "SLURM_JOB_ID": "1"}, "SLURM_NTASKS='-2' in the environment is no number of processes"),
    ({"OMPI_COMM_WORLD_SIZE": "2.5", "OMPI_MCA_orte_hnp_uri": "1"}, "OMPI_COMM_WORLD_SIZE='2.5' in the environment"),
]  # fmt: skip


@pytest.mark.parametrize(("variables", "part"), VARIABLES)
def test_e3_malformed_variables_of_a_cluster(variables, part, monkeypatch):
    from experiments.common import processes

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with contextlib.nullcontext() if part is None else pytest.raises(UserError, match=part):
        processes._join_as_found(on_tpu=False, timeout_s=1)


def test_e3_jax_that_cannot_start_says_which_variable(tmp_path):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "x"}
    done = subprocess.run(
        command("linear_teacher.py", f"--workdir={tmp_path}"), env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert_one_sentence(done.stderr, "JAX does not start (ValueError: ")


# E4: memory.


def test_e4_what_states_take_is_counted_from_shapes(tmp_path):
    """By another route: the states of a small group as they are."""
    import dataclasses

    import jax

    from experiments.common import phases
    from experiments.common.recording import RunFolder

    settings = dataclasses.replace(linear.PRESETS["smoke"], ranks=(1, 3), seeds=2, steps=2, blocks=1, **ONE_PART)
    kept = []

    def seen(folder, phase, state, *args, **kwargs):
        kept.append(state)
        raise UserError("seen.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "train_blocks", seen)
        with pytest.raises(UserError, match="seen"):
            linear.summary(RunFolder(str(tmp_path), "run", {"settings": {}}), settings)
    floats = [leaf for leaf in jax.tree.leaves(kept[0]) if getattr(leaf, "dtype", None) == np.float32]
    actual = memory.bytes_of(floats)
    assert 0.8 * actual < linear.needed(settings) < 1.2 * actual


TOO_MUCH = [
    ("linear_teacher.py", "--seeds=100000000"), ("mnist_digit9.py", "--seeds=100000000"), ("mnist_new_digits.py", "--seeds=100000000"),
    ("rank_sweep.py", "--seeds=100000000"), ("rank_sweep.py", "--task=linear_teacher", "--seeds=100000000"),
]  # fmt: skip


@pytest.mark.parametrize("given", TOO_MUCH)
def test_e4_more_than_there_is_ends_before_work_begins(given, run_entry, tmp_path):
    started = time.monotonic()
    status, _, stderr = run_entry(given[0], *given[1:], "--preset=smoke", f"--workdir={tmp_path}")
    assert status == 2 and time.monotonic() - started < 25
    assert_one_sentence(stderr, "of memory or more (an estimate from shapes), and this machine has ")
    assert "; give fewer --seeds" in stderr


def test_e4_what_may_fit_is_not_refused(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: (1000, "there are {}"))
    memory.require(1000, "it", "no")
    with pytest.raises(
        UserError,
        match=r"it takes 1001 B of memory or more \(an estimate from shapes\), and there are 1000 B; take less\.",
    ):
        memory.require(1001, "it", "take less")
    monkeypatch.setattr(memory, "available", lambda: (None, ""))
    memory.require(10**30, "it", "no")


def test_e4_a_container_has_what_its_limit_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory._free_of_container() is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 600\ninactive_file 50\n")
    assert memory._free_of_container() == 350
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._free_of_container() is None


def test_e4_memory_that_runs_out_all_the_same(capsys):
    def full():
        raise MemoryError

    with pytest.raises(SystemExit, match="2"):
        cli.guarded(full)
    assert_one_sentence(capsys.readouterr().err, "memory is used up")


# E5: the smoke preset.


@pytest.mark.parametrize(("preset", "is_noted"), [("smoke", True), ("quick", False)])
def test_e5_tables_and_figures_say_that_smoke_teaches_nothing(preset, is_noted, run_entry, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(style.plt, "close", lambda figure: titles.append(figure.get_suptitle()))
    monkeypatch.setitem(linear.PRESETS, preset, linear.Settings(ranks=(1,), seeds=2, steps=20, blocks=2, **ONE_PART))
    status, stdout, _ = run_entry("linear_teacher.py", f"--preset={preset}", f"--workdir={tmp_path}")
    (table,) = tmp_path.glob("*/table.txt")
    assert status == 0 and "teaches nothing" in smoke.NOTE
    assert ((smoke.NOTE in stdout), table.read_text().startswith(smoke.NOTE)) == (is_noted, is_noted)
    assert titles and all(title.startswith(smoke.NOTE) == is_noted for title in titles)


# E6: a user's own data (test_sst2_jobs has the jobs, test_finetune_lm the talk).


def table(tmp_path, name: str, content: str) -> str:
    (tmp_path / name).write_text(content)
    return str(tmp_path / name)


def test_e6_three_classes_by_their_words_and_columns_by_their_names(tmp_path, capsys):
    rows = [(f"text {n}", ("sport", "music", "law")[n % 3]) for n in range(30)]
    csv = table(tmp_path, "a.csv", "id,Text,category\n" + "".join(f"{n},{t},{c}\n" for n, (t, c) in enumerate(rows)))
    jsonl = table(tmp_path, "b.jsonl", "".join(json.dumps({"review": t, "labels": c}) + "\n" for t, c in rows[:6]))
    data = sentences.load(csv, jsonl)
    assert data.classes == ("law", "music", "sport") and data.train.labels.tolist() == [2, 1, 0] * 10
    assert data.validation.labels.tolist() == [2, 1, 0] * 2 and data.train.sentences[0] == "text 0"
    assert "3 classes: law, music, sport" in capsys.readouterr().out


def test_e6_numbers_are_classes_by_size_and_two_of_them_are_sentiment():
    assert labels.of("x", list("012012")).words == ("0", "1", "2")
    assert labels.of("x", ["10", "9", "10", "9"]).words == ("9", "10")
    assert labels.of("x", list("1010")).words == ("negative", "positive")


def test_e6_columns_that_flags_name(tmp_path):
    path = table(
        tmp_path, "a.tsv", "one\ttwo\tsentence\tlabel\n" + "".join(f"a{n}\t{'xy'[n % 2]}\tb\t0\n" for n in range(12))
    )
    data = sentences.load(path, path, text_field="one", label_field="two")
    assert data.classes == ("x", "y") and data.train.sentences[3] == "a3"
    for fields, part in (
        ({"text_field": "tree"}, "no column 'tree', which --text_field names"),
        ({"text_field": "label"}, "cannot be both"),
    ):
        with pytest.raises(UserError, match=part):
            sentences.load(path, path, **fields)


def test_e6_a_label_that_training_has_not_is_refused_by_name(tmp_path):
    train = table(tmp_path, "a.csv", "text,label\n" + "".join(f"t{n},{'ab'[n % 2]}\n" for n in range(8)))
    other = table(tmp_path, "b.csv", "text,label\nt,a\nt,c\n")
    with pytest.raises(UserError, match="the label of line 3 is 'c', which no training sentence has; there are a, b"):
        sentences.load(train, other)


def test_e6_sentences_to_classify_may_lie_in_a_table(tmp_path):
    path = table(tmp_path, "a.csv", "id,text\n1,one\n2,two\n")
    assert sentences.read_lines(path) == ("one", "two")


def test_e6_one_text_file_is_a_corpus_parted_at_blank_lines(tmp_path):
    path = table(tmp_path, "a.txt", "\ufeffone\nmore\n \t\n\ntwo\n\n\n")
    assert list(text.documents([path])) == ["one\nmore", "two"]
    assert lm_text.Source((path,)).documents == ["one\nmore", "two"]
    with pytest.raises(UserError, match="1 documents in .*; at least 2 are needed.*apart by blank lines"):
        _ = lm_text.Source((table(tmp_path, "b.txt", "one\ntwo\n"),)).documents
