"""Is every file and folder whole or as before, whenever its writer is killed and whichever call of it fails?"""

import contextlib
import errno
import os
import pathlib
import shutil
import threading
import time

import pytest

from lora_jax import files
from lora_jax.errors import ModelError
from lora_jax.files import exchange, folders, replacing
from tests.files.faults import content, failing, lay, states, watched

OLD, NEW = b"old " * 100, b"new " * 150


def visible(found):
    """What a reader sees: the temporary files and folders are nobody's."""
    return {
        name: data
        for name, data in found.items()
        if not any(part.endswith(".tmp") for part in pathlib.PurePath(name).parts)
    }


# One file


@pytest.mark.parametrize("old", [None, OLD], ids=["none", "old"])
def test_a_file_is_old_or_new_between_every_two_calls(tmp_path, old):
    file = tmp_path / "run" / "file"
    if old is not None:
        files.write_atomically(file, old)
    seen = [state.get("run/file") for state in states(tmp_path, lambda: files.write_atomically(file, NEW))]
    assert set(seen) == {old, NEW} and seen[0] == old and seen[-1] == NEW
    assert seen == sorted(seen, key=[old, NEW].index)
    assert content(file.parent) == {"file": NEW}


def test_a_file_is_flushed_before_it_has_its_name_and_the_name_after(tmp_path):
    calls = []
    with watched(lambda name, number: calls.append(name)):
        files.write_atomically(tmp_path / "file", NEW)
    replaced = calls.index("replace")
    assert "fsync" in calls[:replaced] and "fsync" in calls[replaced:]
    assert calls.index("write") < calls.index("fsync")


def test_whichever_call_fails_the_old_file_stays_or_the_new_is_whole(tmp_path):
    file, outcomes = tmp_path / "file", set()
    for call, raised, found in failing(
        tmp_path, lambda: files.write_atomically(file, NEW), lambda: file.write_bytes(OLD)
    ):
        assert visible(found)["file"] in (OLD, NEW), call
        if raised is not None:
            assert isinstance(raised, ModelError) and "cannot write" in str(raised), (call, raised)
            assert "No space left on device" in str(raised)
        outcomes.add((call, raised is None))
    assert {call for call, _ in outcomes} >= {"open", "write", "fsync", "replace"}


def test_what_a_failed_write_began_is_removed(tmp_path):
    for call, raised, found in failing(tmp_path, lambda: files.write_atomically(tmp_path / "file", NEW), lambda: None):
        if raised is not None:
            assert set(found) <= {"file"}, call


def test_d8_a_link_where_a_file_will_be_is_replaced_and_not_followed(tmp_path):
    outside, file = tmp_path / "outside", tmp_path / "run" / "file"
    outside.write_bytes(b"mine")
    file.parent.mkdir()
    file.symlink_to(outside)
    files.write_atomically(file, NEW)
    assert outside.read_bytes() == b"mine" and not file.is_symlink() and file.read_bytes() == NEW


def test_d8_names_of_temporary_files_cannot_be_guessed_and_are_made_exclusively(tmp_path, monkeypatch):
    names, opened = [], os.open

    def watch(path, flags, *args, **kwargs):
        if str(path).endswith(".tmp"):
            names.append(pathlib.Path(path).name)
            assert flags & os.O_EXCL and flags & os.O_CREAT and flags & os.O_NOFOLLOW
        return opened(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", watch)
    for _ in range(3):
        files.write_atomically(tmp_path / "file", NEW)
    assert len(set(names)) == 3 and all(len(name) >= 16 and str(os.getpid()) not in name[6:9] for name in names)


def test_access_rights_of_the_old_file_stay(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(OLD)
    file.chmod(0o600)
    files.write_atomically(file, NEW)
    assert file.stat().st_mode & 0o777 == 0o600


def test_what_a_process_left_that_was_killed_long_ago_is_removed(tmp_path):
    left, recent = (replacing.temporary_name(tmp_path, "file") for _ in range(2))
    others = [replacing.temporary_name(tmp_path, "others"), tmp_path / ".file.mine.tmp", tmp_path / ".cache.tmp"]
    for path in (left, recent, *others):
        path.write_bytes(b"half")
    for path in (left, *others):
        os.utime(path, (time.time() - 2 * replacing.ABANDONED_S,) * 2)
    files.write_atomically(tmp_path / "file", NEW)
    assert set(content(tmp_path)) == {path.name for path in (recent, *others)} | {"file"}
    replacing.remove_abandoned(tmp_path)  # of any name, and still none of a user's
    assert set(content(tmp_path)) == {path.name for path in (recent, *others[1:])} | {"file"}


@pytest.mark.parametrize(
    "name",
    ["n" * 255, "\u9069" * 80, "\U0001f600" * 60 + "n" * 15, "..", ".a"],
    ids=["letters", "three bytes", "four bytes", "dots", "hidden"],
)
def test_a_name_as_long_as_names_can_be_is_written(tmp_path, name):
    assert replacing.is_temporary(temporary := replacing.temporary_name(tmp_path, name).name, name)
    assert len(temporary.encode()) <= 255
    if name != "..":
        files.write_atomically(tmp_path / name, NEW)
        assert (tmp_path / name).read_bytes() == NEW


# Lines


def test_a_line_follows_half_a_line_and_never_a_link(tmp_path):
    file, outside = tmp_path / "lines", tmp_path / "outside"
    file.write_bytes(b'{"whole": 1}\n{"ha')
    files.append_line(file, b"next")
    assert file.read_bytes() == b'{"whole": 1}\n{"ha\nnext\n'
    outside.write_bytes(b"mine")
    (tmp_path / "link").symlink_to(outside)
    with pytest.raises(OSError):
        files.append_line(tmp_path / "link", b"next")
    assert outside.read_bytes() == b"mine"


def test_a_killed_append_leaves_whole_lines_and_at_most_half_a_one(tmp_path):
    file = tmp_path / "lines"
    file.write_bytes(b"one\n")
    for state in states(tmp_path, lambda: files.append_line(file, b"second")):
        assert b"one\nsecond\n".startswith(state["lines"])
        again = lay(tmp_path / "again", state) / "lines"
        files.append_line(again, b"third")
        assert [line for line in again.read_bytes().split(b"\n") if line in (b"one", b"second", b"third")][
            -1
        ] == b"third"
        shutil.rmtree(tmp_path / "again")


# Files that belong together

BEFORE = {"weights": OLD, "config": OLD, "README.md": b"mine", "sub": None, "sub/inner": b"mine, too"}
AFTER = {**BEFORE, "weights": NEW, "config": NEW}
PAIR = {"weights": NEW, "config": NEW}


def pair_of(state):
    found = visible(state)
    return found.get("folder/weights"), found.get("folder/config")


def test_c7_d1_files_that_belong_together_are_both_old_or_both_new(tmp_path):
    folder = lay(tmp_path / "folder", BEFORE)
    seen = [pair_of(state) for state in states(tmp_path, lambda: files.write_folder(folder, PAIR))]
    assert set(seen) == {(OLD, OLD), (NEW, NEW)} and seen[-1] == (NEW, NEW)
    assert content(folder) == AFTER
    assert list(content(tmp_path)) == [
        "folder",
        *(f"folder/{name}" for name in sorted(AFTER)),
    ]  # nothing is left beside it


def test_c7_all_else_in_the_folder_is_there_at_every_moment(tmp_path):
    folder = lay(tmp_path / "folder", BEFORE)
    for state in states(tmp_path, lambda: files.write_folder(folder, PAIR)):
        assert state["folder/README.md"] == b"mine" and state["folder/sub/inner"] == b"mine, too"


def test_c7_a_new_folder_has_the_file_that_names_the_others_last(tmp_path):
    folder = tmp_path / "folder"
    seen = [pair_of(state) for state in states(tmp_path, lambda: files.write_folder(folder, PAIR))]
    assert set(seen) == {(None, None), (NEW, None), (NEW, NEW)}


def test_one_file_that_changes_is_replaced_alone(tmp_path, monkeypatch):
    folder = lay(tmp_path / "folder", BEFORE)
    monkeypatch.setattr(folders, "exchanged", lambda *_: pytest.fail("the folder was exchanged"))
    inode = folder.stat().st_ino
    files.write_folder(folder, {"weights": NEW, "config": OLD})
    assert content(folder) == {**BEFORE, "weights": NEW} and folder.stat().st_ino == inode


@pytest.mark.parametrize("moment", ["old", "none"])
def test_whichever_call_fails_both_are_old_or_both_are_new(tmp_path, moment):
    folder = tmp_path / "folder"

    def lay_again():
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        if moment == "old":
            lay(folder, BEFORE)

    calls = set()
    for call, raised, found in failing(tmp_path, lambda: files.write_folder(folder, PAIR), lay_again):
        calls.add(call)
        if moment == "old":
            assert pair_of(found) in ((OLD, OLD), (NEW, NEW)), call
            assert found["folder/sub/inner"] == b"mine, too"
        else:
            assert pair_of(found) in ((None, None), (NEW, None), (NEW, NEW)), call
        if raised is not None:
            assert isinstance(raised, ModelError), (call, raised)
    assert calls >= {"open", "write", "fsync"}


def test_where_folders_cannot_be_exchanged_old_and_new_are_never_mixed(tmp_path, monkeypatch):
    folder = lay(tmp_path / "folder", BEFORE)
    monkeypatch.setattr(exchange, "_function", lambda: None)
    seen = [pair_of(state) for state in states(tmp_path, lambda: files.write_folder(folder, PAIR))]
    assert seen[-1] == (NEW, NEW) and content(folder) == AFTER
    assert all(None in pair or len(set(pair)) == 1 for pair in seen)


def test_a_folder_behind_a_link_is_written_and_the_link_stays(tmp_path):
    lay(tmp_path / "folder", BEFORE)
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    files.write_folder(tmp_path / "link", PAIR)
    assert (tmp_path / "link").is_symlink() and content(tmp_path / "folder") == AFTER


def test_what_others_put_into_the_folder_meanwhile_stays(tmp_path, monkeypatch):
    folder = lay(tmp_path / "folder", BEFORE)
    swap = folders.exchanged

    def late(new, old):
        for place in (old, old / "sub"):
            (place / "late").write_bytes(b"late")
        return swap(new, old)

    monkeypatch.setattr(folders, "exchanged", late)
    files.write_folder(folder, PAIR)
    assert content(folder) == {**AFTER, "late": b"late", "sub/late": b"late"}


def test_files_of_a_user_that_end_as_temporary_ones_do_stay_wherever_they_are(tmp_path):
    own = {"notes.tmp": b"mine", "sub/notes.tmp": b"mine", "sub/.cache.tmp": b"mine"}
    folder = lay(tmp_path / "folder", {**BEFORE, **own})
    files.write_folder(folder, PAIR)
    assert content(folder) == {**AFTER, **own}


def test_a_folder_is_written_where_the_one_above_it_takes_nothing(tmp_path, monkeypatch):
    folder, mkdir = lay(tmp_path / "folder", BEFORE), os.mkdir

    def refused(path, *args, **kwargs):
        if pathlib.Path(path).parent == tmp_path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(os, "mkdir", refused)
    files.write_folder(folder, PAIR)
    assert content(folder) == AFTER


def read_at(folder, name):
    file = os.open(name, os.O_RDONLY, dir_fd=folder)
    try:
        return os.read(file, 10_000)
    finally:
        os.close(file)


def test_readers_beside_a_writer_never_see_a_mixture(tmp_path):
    """A real race, in threads: as often as it can be read, what is read is a pair."""
    folder, stop, mixed, read = tmp_path / "folder", threading.Event(), [], []
    values = [b"a" * 1000, b"b" * 1000]
    files.write_folder(folder, dict.fromkeys(("weights", "config"), values[0]))

    def reader():
        while not stop.is_set():
            with contextlib.suppress(OSError):
                place = os.open(folder, os.O_RDONLY)
                try:
                    pair = [read_at(place, name) for name in ("weights", "config")]
                finally:
                    os.close(place)
                read.append(pair)
                if pair[0] != pair[1]:
                    mixed.append(pair)

    thread = threading.Thread(target=reader)
    thread.start()
    for turn in range(40):
        files.write_folder(folder, dict.fromkeys(("weights", "config"), values[turn % 2]))
    stop.set()
    thread.join()
    assert read and not mixed


def test_a_folder_in_a_file_s_place_is_a_sentence_and_nothing_is_lost(tmp_path):
    folder = lay(tmp_path / "folder", {**BEFORE, "config": None, "config/inner": b"mine"})
    with pytest.raises(ModelError, match=r"cannot write .*folder/config: a folder of this name"):
        files.write_folder(folder, PAIR)
    assert content(folder) == {**BEFORE, "config": None, "config/inner": b"mine"}


# Folders


def test_a_folder_is_replaced_in_one_step(tmp_path):
    folder, new = lay(tmp_path / "3", {"a": OLD}), tmp_path / "new"

    def write():
        lay(new, {"a": NEW, "b": NEW})
        replacing.replace_folder(new, folder)

    seen = [{k: v for k, v in state.items() if k.startswith("3/")} for state in states(tmp_path, write)]
    assert {tuple(state.items()) for state in seen} == {(("3/a", OLD),), (("3/a", NEW), ("3/b", NEW))}
    assert content(tmp_path) == {"3": None, "3/a": NEW, "3/b": NEW}
