"""Does every mistake end in one sentence on stderr, with a status, and without a traceback?"""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from experiments.benchmarks import against_peft
from experiments.common import accelerator, main
from tests.experiments import entries

SWEEP, LINEAR, DIGIT9, NEW = "rank_sweep.py", "linear_teacher.py", "mnist_digit9.py", "mnist_new_digits.py"
NEVER = ("--preset=smoke", "--workdir=/dev/null/never")  # should a mistake pass, this one is met before hours of work

BAD_FLAGS = [
    (SWEEP, ["--ranks=two"], "'two' is not an integer; give a list such as 1,2,4"),
    (SWEEP, ["--ranks=0"], "'0' is not positive"),
    (SWEEP, ["--ranks=-1"], "'-1' is not positive"),
    (SWEEP, ["--ranks=1,,2"], "'' is not an integer"),
    (SWEEP, ["--task=sst2", "--regimes="], "--regimes=: it is empty; name a value, or leave the flag out"),
    (NEW, ["--new_digits="], "--new_digits=: it is empty"),
    (NEW, ["--images="], "--images=: it is empty"),
    (SWEEP, ["--learning_rates=nan"], "'nan' is not positive"),
    (SWEEP, ["--learning_rates=1e-3,fast"], "'fast' is not a number"),
    (SWEEP, ["--seeds=0"], "--seeds=0: expected an integer from 1 to 2,147,483,647"),
    (SWEEP, ["--" + "a" * 3000], "there is no flag --aaa"),
    (SWEEP, ["--rank=3"], "there is no flag --rank (did you mean --ranks?)"),
    (SWEEP, ["--preset=huge"], "smoke|quick|full"),
    (SWEEP, ["--accelerator=npu"], "auto|cpu|gpu|tpu"),
    (SWEEP, ["--task=cifar"], "mnist|linear_teacher"),
    (DIGIT9, ["--digit=12"], "expected an integer from 0 to 9"),
    (NEW, ["--job=infer"], "pretrain|finetune|inference|all"),
    ("reproduce.py", ["--only=s9"], "s0|s1|s2|sst2|minilm|s3|s4|smollm2|rate|rate_linear|rate_sst2|rank"),
    ("benchmark.py", ["--only=bert"], "variants|flax_peers|mixed_batch|many_adapters|tracing|bert_sweep"),
]  # fmt: skip

MISTAKES = [
    (SWEEP, ["smoke"], "there is no argument 'smoke'; settings are flags"),
    (SWEEP, ["--ranks=1,1024"], "1024 is above 512"),
    (SWEEP, ["--ranks=4,1,4"], "--ranks: 4 is named 2 times; name each value once"),
    (SWEEP, ["--task=linear_teacher", "--ranks=64"], "64 is not below 64"),
    (SWEEP, ["--task=linear_teacher", "--learning_rates=1"], "--learning_rates has no meaning with --task=linear_teacher"),
    (SWEEP, ["--task=linear_teacher", "--data_dir=x"], "--data_dir has no meaning with --task=linear_teacher"),
    (SWEEP, ["--data_dir=/nonexistent"], "--data_dir=/nonexistent: there is no such folder"),
    (SWEEP, [], "cannot write to /dev/null/never/rank_sweep_mnist"),
    (LINEAR, ["--ranks=100"], "100 is not below 64"),
    (LINEAR, ["--accelerator=gpu"], "JAX finds no GPU on this machine, only cpu"),
    (LINEAR, ["--accelerator=tpu"], "JAX finds no TPU on this machine, only cpu"),
    (LINEAR, [], "cannot write to /dev/null/never/linear_teacher"),
    (LINEAR, ["--mesh=members:3"], "--mesh=members:3: a mesh of members 3 x data 1 x model 1 needs 3 devices and JAX has 1; choose"),
    (LINEAR, ["--mesh=rows:2"], "'rows:2' is no part of a mesh; give sizes of members, data, model"),
    (LINEAR, ["--num_processes=2"], "--coordinator, --num_processes and --process_id belong together"),
    (LINEAR, ["--coordinator=host", "--num_processes=2", "--process_id=0"], "--coordinator=host: expected host:port"),
    (LINEAR, ["--coordinator=h:1", "--num_processes=2", "--process_id=2"], "--process_id=2 is not below --num_processes=2"),
    (LINEAR, ["--coordinator=h:99999", "--num_processes=2", "--process_id=0"], "expected host:port of process 0"),
    ("benchmark.py", ["--mesh=data:1"], "--mesh has no meaning here"),
    (NEW, ["--new_digits=8,12"], "'12' is no choice of one to nine digits"),
    (NEW, ["--new_digits=²"], "'²' is no choice"),
    (NEW, ["--new_digits=0,1,2,3,4,5,6,7,8,9"], "is no choice of one to nine digits"),
    (NEW, ["--images=absent.png"], "there is no file absent.png"),
    (NEW, ["--job=pretrain", "--images=a.png"], "--images has no meaning with --job=pretrain"),
    ("reproduce.py", ["--seeds=1"], "a verdict needs an interval"),
    ("reproduce.py", ["--from_results=x"], "--preset has no meaning with --from_results"),
    ("benchmark.py", ["--seeds=3"], "--seeds has no meaning here"),
    ("benchmark.py", ["--peft_python=/nonexistent"], "--peft_python=/nonexistent cannot be run"),
    ("benchmark.py", [f"--peft_python={sys.executable}"], "cannot write to /dev/null/never/benchmark-cpu"),
]  # fmt: skip


def assert_one_sentence(stderr: str, part: str) -> None:
    (line,) = stderr.splitlines()
    assert line.startswith("error: ") and part in line and line.endswith(".")


@pytest.mark.parametrize(("entry", "given", "part"), BAD_FLAGS)
def test_bad_flags(entry, given, part, run_entry):
    status, _, stderr = run_entry(entry, *NEVER, *given)
    assert status == 1
    assert_one_sentence(stderr, part)


@pytest.mark.parametrize(("entry", "given", "part"), MISTAKES)
def test_mistakes(entry, given, part, run_entry, monkeypatch):
    monkeypatch.setattr(against_peft, "is_installed", remembered(against_peft.is_installed))
    status, _, stderr = run_entry(entry, *NEVER, *given)
    assert status == 2
    assert_one_sentence(stderr, part)


def remembered(is_installed):
    """That torch is absent from this interpreter takes a second to find out."""
    return lambda python: python != sys.executable and is_installed(python)


@pytest.mark.parametrize("kind", [RuntimeError, AssertionError])
@pytest.mark.parametrize("asked", ["auto", "gpu"])
def test_a_platform_in_the_environment_that_is_absent(kind, asked, run_entry, monkeypatch):
    """Which exception JAX raises depends on the platform that JAX_PLATFORMS names."""

    def absent(*_):
        raise kind

    monkeypatch.setattr(accelerator.jax, "default_backend", absent)
    monkeypatch.setattr(accelerator.jax, "devices", absent)
    status, _, stderr = run_entry(LINEAR, *NEVER, f"--accelerator={asked}")
    assert status == 2
    assert_one_sentence(stderr, "JAX finds no such platform here; unset it, or use --accelerator=cpu")


@pytest.mark.parametrize(("number", "said"), [(28, "No space left on device"), (30, "Read-only file system")])
def test_a_disk_that_fails(number, said, run_entry, monkeypatch):
    def fails(*args, **kwargs):
        raise OSError(number, os.strerror(number), "metrics.jsonl")

    monkeypatch.setattr(main, "execute", fails)
    status, _, stderr = run_entry(LINEAR, *NEVER)
    assert status == 2
    assert_one_sentence(stderr, f"cannot write to metrics.jsonl: {said}; mend that, and the same command goes on")


def test_an_error_of_ours_keeps_its_traceback(run_entry, monkeypatch):
    monkeypatch.setattr(main, "execute", lambda *args, **kwargs: pathlib.Path("/nonexistent").read_text())
    with pytest.raises(FileNotFoundError):
        run_entry(LINEAR, *NEVER)


def test_ctrl_c_says_one_sentence_and_nothing_saved_is_lost(tmp_path):
    """The only test here that needs a process of its own: a signal is not to be simulated."""
    command = [
        sys.executable,
        str(entries.FOLDER / LINEAR),
        "--preset=quick",  # a smoke run may be over by then
        "--accelerator=cpu",
        f"--workdir={tmp_path}",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("run: ")
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.strip() == "Interrupted: what is saved stays, and the same command goes on from there."
    (run,) = pathlib.Path(tmp_path).iterdir()
    assert (run / "config.json").exists() and not (run / "summary.json").exists()
