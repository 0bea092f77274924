"""The data that several studies learn from, as --data_dir and --download say."""

from absl import flags

from experiments.common import devices
from experiments.data import mnist

FLAGS = flags.FLAGS


def load_mnist() -> mnist.Mnist:
    """MNIST as --data_dir and --download say; after the accelerator, whose absence should not wait for the data."""
    devices.settle()
    return mnist.load(FLAGS.data_dir, download=FLAGS.download)
