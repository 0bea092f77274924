"""Does a run's folder survive what kills runs, and say so when it does not?"""

import json
import os

import pytest

from experiments.common import processes, recording
from experiments.common.errors import UserError
from experiments.common.figures import style
from experiments.common.recording import RunFolder


def steps(folder: RunFolder, phase: str = "a") -> list[int]:
    return [line["step"] for line in folder.records(phase)]


def test_the_same_config_finds_its_run_and_another_does_not(tmp_path):
    one = RunFolder(str(tmp_path), "run", {"settings": {"ranks": (1, 2), "seeds": 3}})
    same = RunFolder(str(tmp_path), "run", {"settings": {"seeds": 3, "ranks": [1, 2]}})
    other = RunFolder(str(tmp_path), "run", {"settings": {"ranks": (1, 2), "seeds": 4}})
    assert one.path == same.path != other.path
    assert json.loads((one.path / "config.json").read_text()) == {"settings": {"ranks": [1, 2], "seeds": 3}}


def test_of_lines_written_twice_the_last_counts(folder):
    for step, value in ((0, 1), (2, 1), (1, 1), (2, 9)):
        folder.record(phase="a", step=step, value=value)
    folder.record(phase="b", step=5, value=7)
    assert [(line["step"], line["value"]) for line in folder.records("a")] == [(0, 1), (1, 1), (2, 9)]
    assert steps(folder, "c") == []


@pytest.mark.parametrize(
    "half", ['{"phase": "a", "st', '{"phase": "a", "step": 1, "x": {"y": 2}', "\ufffd\x00", "[1]", "{}"]
)
def test_half_a_line_costs_itself_alone(folder, half):
    folder.record(phase="a", step=0)
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write(half)
    assert steps(folder) == [0]
    folder.record(phase="a", step=1)
    folder.record(phase="a", step=2)
    assert steps(folder) == [0, 1, 2]


def test_bytes_that_are_no_text_cost_their_line_alone(folder):
    (folder.path / "metrics.jsonl").write_bytes(b"\xff\xfe\xff\n")
    folder.record(phase="a", step=0)
    assert steps(folder) == [0]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    recording.write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        recording.write_json(path, {"new": float("nan")})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        recording.write_json(path, {"new": 2})
    monkeypatch.undo()
    assert recording.read_json(path) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


def test_a_figure_is_drawn_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    style.save(style.new()[0], path)
    old = path.read_bytes()
    figure, _ = style.new()

    def killed(file, **kwargs):
        file.write(b"half a picture")
        raise KeyboardInterrupt

    monkeypatch.setattr(figure, "savefig", killed)
    with pytest.raises(KeyboardInterrupt):
        style.save(figure, path)
    style.plt.close(figure)
    assert path.read_bytes() == old and old[1:4] == b"PNG"
    assert [entry.name for entry in tmp_path.iterdir()] == ["figure.png"]


def test_of_several_processes_the_first_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "is_first", lambda: False)
    assert style.save(style.new()[0], tmp_path / "figure.png") == tmp_path / "figure.png"
    assert list(tmp_path.iterdir()) == []


def test_a_summary_means_complete(folder):
    assert folder.summary() is None
    assert folder.finish({"settings": {}, "rows": (1,)}) == folder.summary() == {"settings": {}, "rows": [1]}


@pytest.mark.parametrize("content", [b'{"rows": [', b"\xff\xff"])
def test_half_a_summary_is_made_again(folder, content, capsys):
    (folder.path / "summary.json").write_bytes(content)
    assert folder.summary() is None
    assert capsys.readouterr().out.endswith("summary.json is damaged; making it again, from what is saved\n")


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"settings": {"seeds": 3}}'])
def test_a_summary_of_something_else_is_named(folder, content):
    (folder.path / "summary.json").write_bytes(content)
    with pytest.raises(UserError, match=r"summary\.json is damaged \(.*\); remove it") as caught:
        folder.summary()
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_made_names_the_flag(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to .*file/run-\w+: Not a directory; choose another --workdir"):
        RunFolder(str(tmp_path / "file"), "run", {})


def test_the_environment_says_what_ran(folder):
    folder.write_environment(data={"sha256": "x"})
    said = recording.read_json(folder.path / "environment.json")
    assert said["platform"] == "cpu" and said["packages"].keys() == {*recording.PACKAGES, "lora_jax"}
    assert said["data"] == {"sha256": "x"} and "commit" in said


def test_a_run_in_a_bucket(bucket):
    folder = RunFolder("gs://bucket/runs", "run", {"settings": {}})
    folder.record(phase="one", step=0, loss=1.5)
    folder.record(phase="one", step=1, loss=0.5)
    assert [line["loss"] for line in folder.records("one")] == [1.5, 0.5]
    assert folder.summary() is None
    assert folder.finish({"settings": {}}) == folder.summary() == {"settings": {}}
    figure, _ = style.new()
    style.save(figure, folder.path / "figure.png")
    found = bucket / "runs" / folder.path.name
    assert sorted(path.name for path in found.iterdir()) == [
        "config.json",
        "figure.png",
        "metrics.jsonl",
        "summary.json",
    ]
    assert (found / "figure.png").read_bytes()[1:4] == b"PNG"
    recording.remove(folder.path)
    assert not found.exists()


def test_a_bucket_that_cannot_be_reached():
    with pytest.raises(
        UserError, match=r"^cannot write to gs://no-such-bucket/run-\w+: .*\[gcs\].*choose another --workdir\.$"
    ):
        RunFolder("gs://no-such-bucket", "run", {})


def test_d8_a_line_or_a_part_that_was_changed_is_not_taken(folder):
    for step in range(3):
        folder.record(phase="a", step=step, loss=0.5)
    folder.write("part.json", {"loss": 0.5})
    for name in ("metrics.jsonl", "part.json"):
        path = folder.path / name
        path.write_text(path.read_text().replace("0.5", "0.6", 1))
    assert [line["step"] for line in folder.records("a")] == [1, 2]
    with pytest.raises(UserError, match="is damaged .it is not what this run wrote"):
        folder.read("part.json")
    (folder.path / "part.json").write_text("null")
    with pytest.raises(UserError, match="is damaged .it says null"):
        folder.read("part.json")
