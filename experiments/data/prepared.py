"""Data sets that TensorFlow Datasets prepared in a folder: found and read there, prepared afresh only when asked for."""

import dataclasses
import importlib
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from experiments.common import paths
from experiments.common.errors import UserError
from experiments.common.recording import make_folder
from lora_jax.errors import first_line


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A data set of tfds: `name` as tfds spells it, `title` for messages, `module` that defines it, `host` it is fetched from."""

    name: str
    title: str
    module: str
    host: str

    def find(self, data_dir: str | None, *, download: bool = False) -> tuple[epath.Path, epath.Path | None]:
        """The tfds data folder, and the description of the set's newest version in it, None where there is none.

        Args:
          data_dir: tfds data folder; without it $TFDS_DATA_DIR, then ~/tensorflow_datasets. Named and without the set: an error.
          download: prepare the set first. Nothing else ever touches the network.

        Raises:
          UserError: for a folder that is missing, or a download that cannot be.
        """
        root = self._root(data_dir, may_create=download)
        if download and self._newest(root) is None:
            self._prepare(root)
        info = self._newest(root)
        if info is None and data_dir is not None:
            raise UserError(
                f"--data_dir={data_dir}: there is no prepared {self.name} in it; --download prepares it there."
            )
        return root, info

    def _root(self, data_dir: str | None, *, may_create: bool) -> epath.Path:
        named = data_dir or os.environ.get("TFDS_DATA_DIR")
        where = f"--data_dir={data_dir}" if data_dir else f"TFDS_DATA_DIR={named}"
        try:
            root = epath.Path(paths.checked(named or "~/tensorflow_datasets"))
        except ValueError as error:
            raise UserError(f"{where}: {error}.") from error
        if named and not root.is_dir() and not may_create:
            raise UserError(f"{where}: there is no such folder; name one that holds {self.name}/, or leave it out.")
        return root

    def _newest(self, root: epath.Path) -> epath.Path | None:
        return max(root.glob(f"{self.name}/*/dataset_info.json"), default=None, key=lambda path: path.parent.name)

    def _prepare(self, root: epath.Path) -> None:
        """download_and_prepare, after making sure that it can work: offline, tfds retries for minutes."""
        self._check_download()
        import tensorflow_datasets as tfds

        make_folder(root, "--data_dir")
        try:
            # By itself tfds looks through its modules only up to one that cannot be imported.
            importlib.import_module(self.module)
            # as_data_source cannot read tfds's default format.
            builder = tfds.builder(self.name, data_dir=root, file_format="array_record")
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
        except Exception as error:  # tfds raises many kinds: of the net, of a checksum, of the disk
            raise UserError(
                f"--download: {self.title} could not be prepared ({type(error).__name__}: {first_line(error)})."
            ) from error

    def _check_download(self) -> None:
        try:
            import tensorflow  # noqa: F401
        except ImportError:
            raise UserError(
                f"--download needs TensorFlow to prepare {self.title}: pip install -e '.[prepare]', then again."
            ) from None
        try:
            socket.create_connection((self.host, 443), timeout=5).close()
        except OSError:
            raise UserError(
                f"--download: {self.host} cannot be reached; {self.title} can be prepared only with the internet."
            ) from None


def read(info: epath.Path, splits: Sequence[str], decode: Callable[[Any], Any]) -> list[Any]:
    """`decode` of each split's data source: it has a length, and `__getitems__(rows)` gives examples as dicts.

    Args:
      info: a description that `Prepared.find` returned.

    Raises:
      UserError: where the folder cannot be read, or `decode` fails on what is in it.
    """
    folder = info.parent
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"{folder} is read by TensorFlow Datasets, which is not installed ({first_line(error)}): pip install -e '.[experiments]'."
        ) from error
    try:
        builder = tfds.builder_from_directory(folder)
        return [decode(builder.as_data_source(split=name)) for name in splits]
    except Exception as error:  # tfds and array_record raise many kinds; each means the folder cannot be read
        raise UserError(
            f"{folder} is damaged or incomplete ({type(error).__name__}: {first_line(error)}); remove it, and --download prepares it again."
        ) from error
