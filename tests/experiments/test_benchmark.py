"""Does every part of the benchmark run, do what its title says, and come out as text? Speed is not asked."""

import json
import math
import pathlib
import shutil
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import (
    against_peft,
    bert_lengths,
    bert_setting,
    bert_sweep,
    flax_peers,
    floor,
    flops,
    growth,
    lm_setting,
    lm_steps,
    many_adapters,
    pages,
    pairs,
    peft_steps,
    record,
    report,
    setting,
    smollm2,
    steps,
    sweeps,
    tracing,
    variants,
)
from experiments.benchmarks.titles import TITLES
from experiments.common import made, preemption, recording
from lora_jax.models import bert
from lora_jax.models.causal_lm import CausalLMConfig

pytestmark = pytest.mark.usefixtures("quick_compile")
TINY = bert.BertConfig(
    vocab_size=40,
    hidden_size=4,
    num_hidden_layers=1,
    intermediate_size=8,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
WORKER = """
import json, sys
known = {"mlp", "bert", "lm", "instructions", "generation, 1", "generation, 16"}
known |= {"smollm2", "smollm2 generation, 1", "smollm2 generation, 8"}
assert sys.argv[1] in known, sys.argv
assert sys.argv[1] != "instructions" or len(json.load(sys.stdin)) == 32
steps, rounds = map(int, sys.argv[2:4])
assert sys.argv[4] == "cpu"
about = dict(torch="2", peft="0", transformers="5", threads=2, trainable=9, peak_rss_bytes=600)
if sys.argv[1] == "smollm2":
    about["trainable"] = 8 * (16 + 12 + 12 + 16 + 3 * 16)
print("a warning"); print(json.dumps(dict(seconds=[steps] * rounds, **about)))
"""


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(bert_setting, "CONFIG", TINY)
    monkeypatch.setattr(bert_setting, "TOKENS", 8)
    monkeypatch.setattr(setting, "HIDDEN", (4,))
    monkeypatch.setattr(lm_setting, "CONFIG", CausalLMConfig(40, 8, 8, 1, 2, 1, 64))
    monkeypatch.setattr(lm_setting, "TOKENS", 16)
    monkeypatch.setattr(lm_setting, "ROWS", 4)
    monkeypatch.setattr(lm_setting, "QUESTION", (2, 4))
    monkeypatch.setattr(lm_setting, "ANSWER", (1, 8))
    monkeypatch.setattr(sweeps, "RANKS", (2,))
    monkeypatch.setattr(sweeps, "SEEDS", 2)
    monkeypatch.setattr(flax_peers, "WIDTH", 8)
    monkeypatch.setattr(flax_peers, "HIDDEN", 8)
    monkeypatch.setattr(flax_peers, "BLOCKS", 1)
    monkeypatch.setattr(flax_peers, "TOKENS", 4)
    monkeypatch.setattr(variants, "KINDS", {"LoRA": {}, "DoRA": {"dora": True}})
    monkeypatch.setattr(variants, "FORMATS", ("nf4",))
    monkeypatch.setattr(many_adapters, "COUNT", 2)
    monkeypatch.setattr(tracing, "LAYERS", 1)
    monkeypatch.setattr(lm_setting, "LARGE", CausalLMConfig(40, 8, 8, 1, 2, 1, 64))
    monkeypatch.setattr(smollm2, "CONFIG", CausalLMConfig(40, 8, 8, 1, 2, 1, 64))
    monkeypatch.setattr(smollm2, "TOKENS", 8)
    monkeypatch.setattr(smollm2, "_alone", lambda name, count: 300)  # a process of its own would not be tiny
    monkeypatch.setattr(floor, "COPIED", 256)
    for name, few in {
        "MEMBERS": (2,),
        "RANKS": (2,),
        "WIDTHS": (4,),
        "LENGTHS": (8,),
        "DEVICES": (1, 2),
        "DEVICE_MEMBERS": 2,
        "TOKENS": 32,
    }.items():
        monkeypatch.setattr(growth, name, few)
    monkeypatch.setattr(growth, "devices", growth.over_devices)  # a process of its own would not be tiny
    monkeypatch.setattr(jax, "clear_caches", lambda: None)  # other tests would pay for it
    memory_of, found = steps._memory, []
    monkeypatch.setattr(
        steps, "_memory", lambda rival: found[0] if found else found.append(memory_of(rival)) or found[0]
    )
    monkeypatch.setattr(floor, "SIZE", 8)


@pytest.fixture
def two_buckets(monkeypatch):
    monkeypatch.setattr(bert_lengths, "SST2", {8: 3, 16: 1})


@pytest.fixture
def worker(tmp_path, monkeypatch) -> pathlib.Path:
    """In the place of the one that needs torch: says that a step takes a second."""
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    monkeypatch.setattr(against_peft, "WORKER", path)
    return path


def test_all_parts(tiny, two_buckets, worker, run_entry, monkeypatch, tmp_path):
    monkeypatch.setattr(against_peft, "is_installed", lambda python: True)
    status, stdout, stderr = run_entry("benchmark.py", "--preset=smoke", f"--workdir={tmp_path}")
    assert status == 0, stderr
    results = json.loads((tmp_path / "benchmark-cpu" / "benchmark.json").read_text())["results"]
    assert len(results) == 25
    for title, result in results.items():
        assert title in stdout
        for row in result["rows"].values():
            assert row["median_ms"] > 0 and row["n"] >= 2 and row["times_the_floor"] > 0
        assert all(math.isfinite(ratio) and ratio > 0 for ratio in result["ratio"].values()), title
    assert stdout.startswith((tmp_path / "benchmark-cpu" / "table.txt").read_text())
    shared = 2 * setting.BATCH * 784 * setting.HIDDEN[0]  # the base's first product, on a batch that both members have
    both = results["growth with members: MLP, one program, per member step"]["rows"]["2 members"]
    assert both["flops"] == floor.of_step(setting.lora()) - shared / 2
    against = results["BERT-tiny: LoRA training against PEFT, per step"]
    assert against["rows"]["PEFT"]["median_ms"] == 1000 and against["trainable"] == 9
    assert list(against["ratio"]) == [
        "PEFT / lora_jax",
        "PEFT / lora_jax, loop",
        "PEFT / lora_jax, whole last layer",
    ]
    assert f"  work: {pairs.FIRST_TOKEN}\n    PEFT / lora_jax, time" in stdout
    large = results["SmolLM2-135M: LoRA training against PEFT, per step"]
    assert large["rows"]["PEFT"]["peak_rss_bytes"] == 600 and large["ratio"]["PEFT / lora_jax, peak_rss_bytes"] == 2
    made = results["SmolLM2-135M: generation against transformers, per token"]["rows"]
    assert set(made) == {f"{way}, batch {batch}" for way in ("lora_jax", "PEFT") for batch in (1, 8)}
    assert made["lora_jax, batch 1"]["moved_bytes"] == 8 * made["lora_jax, batch 8"]["moved_bytes"] == 4 * 728


def test_a_choice_of_parts_without_peft(tiny, run_entry, monkeypatch, tmp_path):
    """It goes to a folder of its own, and what is not measured is said to be so."""
    monkeypatch.setattr(against_peft, "is_installed", lambda python: False)
    chosen = ("--only=bert_peft", "--only=scan")
    status, stdout, _ = run_entry("benchmark.py", "--preset=smoke", *chosen, f"--workdir={tmp_path}")
    folder = tmp_path / "benchmark-cpu-scan-bert_peft"
    results = json.loads((folder / "benchmark.json").read_text())["results"]
    assert status == 0 and list(results.values())[1] is None and len(results) == 2
    assert f"BERT-tiny: LoRA training against PEFT, per step\n  not measured: {report.NOT_MEASURED}\n" in stdout


@pytest.mark.parametrize("measure", [sweeps.one_program_against_serial, many_adapters.trained])
def test_counting_flops_is_no_part_of_what_is_timed(measure, tiny, monkeypatch):
    """By a clock on which every count takes a thousand seconds."""
    of_products, counted, clock = flops.of_products, [], time.perf_counter
    monkeypatch.setattr(flops, "of_products", lambda *args: counted.append(1) or of_products(*args))
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + 1000 * len(counted))
    for row in measure(1, 2)["rows"].values():
        assert 0 < row["with_compilation_s"] < 1000 and row["median_ms"] < 1e6 and row["flops"] > 0
    assert len(counted) >= 3


def test_an_interpreter_is_not_looked_for_in_vain(tiny, run_entry, tmp_path):
    arguments = ("--only=scan", "--peft_python=/nonexistent", f"--workdir={tmp_path}")
    assert run_entry("benchmark.py", "--preset=smoke", *arguments)[0] == 0


def test_peft_that_fails(worker, capsys):
    worker.write_text("raise SystemExit('no such layer')")
    assert against_peft.in_turns(sys.executable, "bert", {"lora_jax": lambda: 0}, 1, 1, operations=1.0) is None
    assert capsys.readouterr().err == "PEFT fails: no such layer\n"


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    """The parts "step", "scan" and "peft" take no time; which of them were measured."""
    names = []

    def part(name):
        def measure(first, *_):
            names.append(name)
            row = {"median_ms": float(len(names)), "quartile_low_ms": 1.0, "quartile_high_ms": 1.0, "n": 1}
            return {"rows": {name: row}, "ratio": {}, **({"python": record.digest(first)} if name == "peft" else {})}

        return measure

    monkeypatch.setattr(steps, "lora_against_full", part("step"))
    monkeypatch.setattr(steps, "scan_against_loop", part("scan"))
    monkeypatch.setattr(against_peft, "mlp", part("peft"))
    monkeypatch.setattr(against_peft, "is_installed", lambda python: True)
    return names


@pytest.fixture
def benchmark(run_entry, tmp_path):
    """`benchmark(*flags) -> (status, stdout, stderr)` of three parts."""
    only = [f"--only={name}" for name in ("step", "scan", "peft")]
    return lambda *flags: run_entry("benchmark.py", f"--workdir={tmp_path}", "--preset=smoke", *only, *flags)


def killed(*_):
    raise KeyboardInterrupt


def test_what_is_measured_is_taken_up_and_never_measured_twice(measured, benchmark, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(steps, "scan_against_loop", killed)
        with pytest.raises(KeyboardInterrupt):
            benchmark()
    assert measured == ["step"]
    status, table, said = benchmark()
    folder = tmp_path / "benchmark-cpu-step-scan-peft"
    assert status == 0 and measured == ["step", "scan", "peft"]
    assert f"taking up 1 of 3 parts from {folder / 'benchmark.json'}\nmeasuring: scanned epoch" in said
    status, again, said = benchmark()
    assert status == 0 and len(measured) == 3 and again == table
    assert said == f"{folder} is complete; remove the folder to measure again\n"
    results = json.loads((folder / "benchmark.json").read_text())["results"]
    assert all(result["measured_at"].endswith("Z") for result in results.values())


def test_parts_of_another_run_are_not_taken_up(measured, benchmark, monkeypatch, tmp_path):
    benchmark()
    status, _, said = benchmark("--preset=quick")
    path = tmp_path / "benchmark-cpu-step-scan-peft" / "benchmark.json"
    assert status == 0 and measured == ["step", "scan", "peft"] * 2
    assert said.startswith(f"measuring anew: {path} is of another run, which differs in preset\nmeasuring: LoRA")
    recording.write_sealed(path, {"environment": {}, "results": {}})  # as files of before the conditions were recorded
    assert "differs in commit, python, packages" in benchmark()[2] and len(measured) == 9
    monkeypatch.setattr(record, "_sources", lambda: "edited")
    assert "differs in sources\n" in benchmark()[2] and len(measured) == 12


def test_parts_against_peft_are_of_the_interpreter_that_is_named(measured, benchmark, monkeypatch):
    """One that fails is tried again; where there is no PEFT, what was measured stays."""
    with monkeypatch.context() as patch:
        patch.setattr(against_peft, "mlp", lambda *_: None)
        assert report.NOT_MEASURED in benchmark()[1]
    assert "taking up 2 of 3 parts" in benchmark()[2] and measured == ["step", "scan", "peft"]
    assert "taking up 2 of 3 parts" in benchmark("--peft_python=another")[2] and measured[3:] == ["peft"]
    monkeypatch.setattr(against_peft, "is_installed", lambda python: False)
    status, table, said = benchmark()
    assert status == 0 and "is complete" in said and report.NOT_MEASURED not in table and len(measured) == 4


def test_sigterm_ends_it_between_parts(measured, benchmark, monkeypatch):
    def stop(where):
        raise SystemExit(f"saved {where}")

    with monkeypatch.context() as patch:
        patch.setattr(preemption, "is_due", lambda: bool(measured))
        patch.setattr(preemption, "stop", stop)
        assert benchmark()[0].startswith("saved LoRA against full fine-tuning, per step, in ")
    assert measured == ["step"]
    assert benchmark()[0] == 0 and measured == ["step", "scan", "peft"]


def row(median: float, **more: float) -> dict:
    return {"median_ms": median, "quartile_low_ms": median / 2, "quartile_high_ms": 2 * median, "n": 3, **more}


def test_table():
    """More is better for ours in every ratio, and each kind of work has its line."""
    step = {
        "LoRA": row(2.0, flops=1e9, times_the_floor=1.5, optimizer_bytes=1000.0),
        "full": row(3.0, flops=2e9, times_the_floor=2.0, optimizer_bytes=500_000.0),
    }
    results = {
        TITLES["step"]: {"rows": step, "ratio": {"median_ms": 2 / 3}},
        TITLES["peft"]: None,
        "a part of another version": {"rows": {"a": row(1.0, flops=12345678)}, "ratio": {"a / b": 0.5}},
    }
    assert report.table(results).splitlines()[len(report.LEGEND.splitlines()) :] == [
        "",
        TITLES["step"],
        "  work: the same batch; full fine-tuning moves all parameters",
        "    full / LoRA, time              1.50  3.00 ms [1.50, 6.00] / 2.00 ms [1.00, 4.00], n = 3; 2.0 / 1.5 times the floor",
        "    full / LoRA, FLOPs             2.00  2.00 GFLOP / 1.00 GFLOP",
        "    full / LoRA, optimiser state    500  500 kB / 1.00 kB",
        "",
        TITLES["peft"],
        f"  not measured: {report.NOT_MEASURED}",
        "",
        "a part of another version",
        "  a            1.000 ms [0.500, 2.000], n = 3  flops 1.235e+07",
    ]


def of_bert(**more: dict) -> dict:
    return {TITLES["bert_peft"]: {"rows": {"lora_jax": row(20.0), "PEFT": row(60.0), **more}, "ratio": {}}}


WHOLE = {"LoRA": row(10.0), "LoRA, whole last layer": row(15.0)}


@pytest.mark.parametrize(
    ("results", "ours"),
    [
        (of_bert(**{"lora_jax, whole last layer": row(30.0)}), "30.0 ms [15.0, 60.0], n = 3"),
        (of_bert() | {TITLES["bert_step"]: {"rows": WHOLE, "ratio": {}}}, "30.0 ms, an estimate, n = 3"),
    ],
)
def test_peft_s_bert_is_compared_on_unequal_and_on_equal_work(results, ours):
    """Where equal work was not measured, it is estimated from another part, and says so."""
    lines = report.table(results).splitlines()
    at = lines.index(f"  work: {pairs.FIRST_TOKEN}")
    assert lines[at + 1].startswith("    PEFT / lora_jax, time                     3.00  60.0 ms")
    assert lines[at + 2] == f"  work: {pairs.ALL_TOKENS}"
    assert lines[at + 3].startswith("    PEFT / lora_jax, whole last layer, time   2.00") and lines[at + 3].endswith(
        ours
    )


def test_generation_by_adapters_there_and_by_a_base_here_is_unequal_work():
    rows = {
        "lora_jax, batch 1": row(1.0),
        "PEFT, batch 1": row(8.0),
        "lora_jax, batch 16": row(1.0),
        "PEFT, batch 16": row(3.0),
    }
    for trainable, work in ((9, pairs.ADAPTERS_THERE), (0, pairs.SAME)):
        found = pairs.there(pairs.of(TITLES["lm_generation"], {"rows": rows, "trainable": trainable}), rows)
        assert [(pair.peer, pair.ours, pair.work) for pair in found] == [
            (f"PEFT, batch {batch}", f"lora_jax, batch {batch}", work) for batch in (1, 16)
        ]


def test_every_part_says_what_it_compares():
    assert list(pairs.PAIRS) == list(TITLES)


# What the repository keeps

KEPT = sorted(pages.RESULTS.glob("benchmark*"))


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_a_kept_table_is_what_its_record_gives(folder):
    """Else: python experiments/benchmark.py --redraw=experiments/results/benchmark (and so on)."""
    results = json.loads((folder / "benchmark.json").read_text())["results"]
    assert (folder / "table.txt").read_text() == report.table(results) + "\n"
    for title, result in results.items():
        found = pairs.of(title, result)
        assert found and pairs.there(found, result["rows"])


def test_the_page_is_what_the_kept_records_give():
    """Else: python experiments/benchmark.py --redraw=experiments/results/benchmark."""
    text = pages.PAGE.read_text()
    assert pages.filled(text) == text


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_no_other_library_is_faster_on_any_row(folder):
    """So says the page."""
    for title, result in json.loads((folder / "benchmark.json").read_text())["results"].items():
        for peer, ours, key, *_ in pairs.there(pairs.of(title, result), result["rows"]):
            if peer.startswith(("PEFT", "qwix", "flax")) and key == "median_ms":
                assert result["rows"][peer][key] > result["rows"][ours][key], (title, peer)


def test_the_page_has_every_part_that_is_kept():
    shown = [part for of in made.asked(pages.PAGE.read_text(), "speed") for part in of.split()[1:]]
    kept = {title for folder in KEPT for title in json.loads((folder / "benchmark.json").read_text())["results"]}
    assert sorted(shown) == sorted(name for name, title in TITLES.items() if title in kept)


def test_redraw_measures_nothing(run_entry, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "write", lambda: pytest.fail("the page is not of this folder"))
    shutil.copy(pages.RESULTS / "benchmark_smollm2" / "benchmark.json", tmp_path)
    status, stdout, _ = run_entry("benchmark.py", f"--redraw={tmp_path}")
    assert status == 0 and stdout == (tmp_path / "table.txt").read_text()
    assert stdout == (pages.RESULTS / "benchmark_smollm2" / "table.txt").read_text()


@pytest.mark.parametrize(
    ("content", "flags", "said"),
    [
        (None, [], "has no benchmark.json; name a folder that a run without this flag wrote"),
        ('{"results": [1]}', [], "does not hold what is expected there"),
        (None, ["--only=scan"], "--only has no meaning with --redraw"),
    ],
)
def test_redraw_of_something_else_is_a_sentence(content, flags, said, run_entry, tmp_path):
    if content is not None:
        (tmp_path / "benchmark.json").write_text(content)
    status, _, stderr = run_entry("benchmark.py", f"--redraw={tmp_path}", *flags)
    assert status == 2 and said in stderr and "Traceback" not in stderr


def test_the_whole_last_layer_has_the_same_logits(tiny):
    params = bert_setting.base()
    params = jax.tree.map(lambda leaf: leaf + jax.random.normal(jax.random.key(6), leaf.shape), params)
    ids = bert_setting.data()["x"][:5]
    ours, whole = (
        kind(TINY).apply({"params": params}, ids)
        for kind in (bert.BertForSequenceClassification, bert_setting.WholeLastLayer)
    )
    np.testing.assert_allclose(ours, whole, rtol=1e-5, atol=1e-5)


def test_scan_and_loop_train_alike(tiny):
    rival = bert_setting.lora()
    scan, loop = steps.scanned_epoch(rival, 3), steps.loop(rival, 3)
    for _ in range(2):
        losses = scan()
        assert losses.shape == (3,) and jnp.isfinite(losses).all()
        np.testing.assert_allclose(losses[-1], loop(), rtol=1e-4)


def test_lora_trains_what_peft_does():
    """8 x (128 + 128) for query and value of 2 layers, and the classifier with its bias; so prints PEFT's worker."""
    adapters, everything = (
        jax.tree.leaves(jax.eval_shape(lambda way=way: way().trainable))
        for way in (bert_setting.lora, bert_setting.full)
    )
    assert sum(leaf.size for leaf in adapters) == 2 * 2 * 8 * 256 + 2 * 128 + 2 == 8_450
    assert sum(leaf.size for leaf in everything) == 4_386_178


def test_sentences_have_the_shares_of_sst2(tiny):
    drawn = bert_lengths.sentences(100)
    assert [len(bucket.rows) // 32 for bucket in drawn] == [41, 31, 15, 11, 2]
    shortest = 3
    for bucket in drawn:
        tokens = np.count_nonzero(bucket.input_ids, axis=1)
        assert tokens.min() == shortest and tokens.max() == bucket.length
        assert ((bucket.input_ids != 0) == (np.arange(bucket.length) < tokens[:, None])).all()  # padding at the end
        shortest = bucket.length + 1


def test_a_pass_over_buckets_trains_on_every_sentence(tiny, two_buckets):
    losses = bert_lengths.one_pass(bert_lengths.sentences(10))()
    assert [len(part) for part in losses] == [8, 2]  # 7.5 batches and 2.5, rounded to even
    assert all(jnp.isfinite(part).all() for part in losses)


def test_both_strategies_train_alike(tiny):
    together, one_by_one = (bert_sweep.members(strategy, (6, 2, 4)).work() for strategy in bert_sweep.STRATEGIES)
    assert together.shape == (6, 2) and jnp.isfinite(together).all()
    np.testing.assert_allclose(together, one_by_one, rtol=1e-4)


def test_lora_of_the_language_model_trains_what_peft_does():
    """r (in + out) of the seven linear layers of 6 layers; so prints PEFT's worker."""
    sizes = {
        "q": (192, 192),
        "k": (192, 64),
        "v": (192, 64),
        "o": (192, 192),
        "gate": (192, 512),
        "up": (192, 512),
        "down": (512, 192),
    }
    adapters, everything = (
        sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda way=way: way().trainable)))
        for way in (lm_setting.lora, lm_setting.full)
    )
    assert adapters == 6 * 8 * sum(map(sum, sizes.values())) == 162_816
    assert everything == 6400 * 192 + 6 * (sum(a * b for a, b in sizes.values()) + 2 * 192) + 192


def test_a_peft_that_trains_something_else_is_not_compared(tiny, worker):
    worker.write_text(WORKER.replace("8 * (16", "9 * (16"))
    with pytest.raises(ValueError, match="PEFT trains 936 parameters, and lora_jax 832"):
        smollm2.step(sys.executable, 1)


def test_a_process_that_measures_its_memory(tiny):
    """By itself it does what is timed; its peak is more than an interpreter with JAX holds."""
    assert smollm2.work("smollm2", 2)().shape == (2,)
    assert smollm2.work("smollm2 generation, 3", 2)().shape == (3, 2)
    assert peft_steps.peak_rss_bytes() > 10**8


def test_smollm2_trains_what_peft_does():
    """r (in + out) of the seven projections of 30 layers; so prints PEFT's worker."""
    trainable = jax.tree.leaves(jax.eval_shape(lambda: smollm2.lora().trainable))
    assert sum(leaf.size for leaf in trainable) == 2_442_240
    scored = lm_setting.full_rows(5, 2)["scored"]  # as transformers scores labels: a row's first token is no one's next
    assert scored.tolist() == [[True] * 4 + [False]] * 2


SMALL = 2 * 8 * (2 * 192 + 2 * 128 + 3 * 352)  # r (in + out) of its projections


@pytest.mark.parametrize(
    ("name", "trainable"),
    [("mlp", 41_376), ("bert", 8_450), ("lm", 162_816), ("smollm2, smoke", SMALL), ("smollm2, bfloat16, smoke", SMALL)],
)
def test_the_real_worker(name, trainable):
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    result = against_peft.in_turns(sys.executable, name, {"lora_jax": lambda: 0}, 1, 1, operations=1.0)
    assert result["trainable"] == trainable and result["rows"]["PEFT"]["median_ms"] > 0


def test_instructions_have_the_quantiles_they_are_drawn_from():
    drawn = np.asarray(lm_setting.lengths(4000))
    assert drawn.sum(axis=1).max() <= lm_setting.TOKENS
    for column, quantiles in zip(drawn.T, (lm_setting.QUESTION, lm_setting.ANSWER), strict=True):
        np.testing.assert_allclose(np.quantile(column, [0.25, 0.5, 0.75]), np.asarray(quantiles)[[5, 10, 15]], rtol=0.1)


def test_a_pass_over_instructions_leaves_none_out(tiny):
    lengths = [(3, 5), (2, 2), (4, 8), (3, 6), (2, 7)]
    data = lm_setting.packed(lengths)
    assert data["weights"].sum() == sum(answer for _, answer in lengths)
    work, operations = lm_steps.instructions(lengths)
    assert len(work()) == 1 and operations > 0  # 32 instructions make a batch; these are one


def test_generation_is_counted_token_by_token(tiny):
    """The linear layers of prompt and new tokens but the last, attention over the cache and what is new, the scores of one token each."""
    c, batch, new = lm_setting.CONFIG, 3, 4
    slots = lm_steps.PROMPT + new
    square, narrow = c.hidden_size**2, c.hidden_size * c.num_key_value_heads * c.head_size
    layer = 2 * square + 2 * narrow + 3 * c.hidden_size * c.intermediate_size

    def of(tokens: int) -> int:
        return tokens * (layer + 2 * c.hidden_size * (slots + tokens)) + c.hidden_size * c.vocab_size

    assert lm_steps.flops_of_generation(batch, new) == 2 * batch * (of(lm_steps.PROMPT) + (new - 1) * of(1))


def test_the_floor_is_the_time_of_the_flops_at_the_rate_of_a_product():
    row = floor.against(
        {"median_ms": 8.0}, 4e9, floor.Rates(2e12), 1e12
    )  # 2 ms at that rate; bytes are no floor on a CPU
    assert row["times_the_floor"] == pytest.approx(4) and row["share_of_matmul_rate"] == pytest.approx(1 / 4)
    assert row["gflops_per_s"] == pytest.approx(500)


@pytest.mark.parametrize(("moved", "times"), [(1e9, 4), (8e9, 1), (None, 4)])
def test_on_an_accelerator_the_floor_is_the_longer_of_flops_and_bytes(moved, times):
    row = floor.against({"median_ms": 8.0}, 4e9, floor.Rates(2e12, 1e12), moved)
    assert row["times_the_floor"] == pytest.approx(times) and row.get("moved_bytes") == moved


def test_products_are_counted_as_often_as_they_run():
    def loss(w, x):
        def layer(x, w):
            return jnp.tanh(x @ w), None

        return jax.lax.scan(layer, x, w)[0].sum()

    w, x = jnp.ones((3, 4, 4)), jnp.ones((5, 4))
    assert flops.of_products(loss, w, x) == 3 * 2 * 5 * 4 * 4
    assert flops.of_products(jax.grad(loss), w, x) == 3 * 3 * 2 * 5 * 4 * 4  # forward, for w, for x
    with pytest.raises(ValueError, match="unknown number of times"):
        flops.of_products(lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x), jnp.ones((2, 2)))
