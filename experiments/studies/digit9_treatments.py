"""What is tried on the 100 batches of digit 9: the study's setting, its suspects and its mitigations, a row each."""

import dataclasses

import numpy as np

from lora_jax.initializers import Initializer, Normal, Orthogonal

STREAMS = ("digit alone", "half replay", "balanced", "weak classes oversampled", "all data")
# S0 names 4, 1 and 3 as the digits that suffer from training on 9.
_WEAK = (0.06, 0.10, 0.06, 0.10, 0.20, 0.06, 0.06, 0.06, 0.06, 0.24)


def shares(stream: str, digit: int) -> np.ndarray | None:
    """The share of each digit 0-9 in a batch, [C]; None for "all data", whose shares are the training set's.

    >>> shares("half replay", 9).round(3).tolist()
    [0.056, 0.056, 0.056, 0.056, 0.056, 0.056, 0.056, 0.056, 0.056, 0.5]
    """
    alone = np.eye(10)[digit]
    return {
        "digit alone": alone,
        "half replay": 0.5 * alone + 0.5 * (1 - alone) / 9,
        "balanced": np.full(10, 0.1),
        "weak classes oversampled": np.asarray(_WEAK),
        "all data": None,
    }[stream]


@dataclasses.dataclass(frozen=True)
class Treatment:
    """One way to fine-tune. `rank` None: no adapter, only what `train` names. `kind` groups rows in tables."""

    name: str
    kind: str = "mitigation"
    rank: int | None = 16
    alpha: float | None = None  # None: alpha = rank
    init_a: Initializer = Normal()  # N(0, 1/r^2), PEFT's "gaussian"; S0 says Gaussian and no more
    train: tuple[str, ...] = ()
    stream: str = "digit alone"
    loss: str = "cross entropy"
    learning_rate: float = 1e-3
    decay: float = 0.0
    quantise: bool = False
    stop_early: bool = False


STUDY = Treatment("LoRA r=16, as the study", kind="study")

S0_TREATMENTS = (
    STUDY,
    Treatment("LoRA r=8", kind="study", rank=8),
    Treatment("LoRA r=16, A ~ N(0, 1)", kind="study", init_a=Normal(1.0)),
    Treatment("full fine-tuning, same batches", kind="suspect", rank=None, train=("*",)),
    Treatment("full fine-tuning, lr 1e-4", kind="suspect", rank=None, train=("*",), learning_rate=1e-4),
    Treatment("bias only, same batches", kind="suspect", rank=None, train=("*/bias",)),
    Treatment("bias only, lr 1e-2", kind="suspect", rank=None, train=("*/bias",), learning_rate=1e-2),
    Treatment("all data", stream="all data"),
    Treatment("balanced data", stream="balanced"),
    Treatment("weak classes oversampled", stream="weak classes oversampled"),
    Treatment("half digit 9, half replay", stream="half replay"),
    Treatment("rank 64", rank=64),
    Treatment("alpha 1", alpha=1),
    Treatment("alpha 4", alpha=4),
    Treatment("alpha 64", alpha=64),
    Treatment("quantised base (NF4)", quantise=True),
    Treatment("focal loss", loss="focal"),
    Treatment("orthogonal A", init_a=Orthogonal()),
    Treatment("L2 (AdamW, decay 10)", decay=10.0),
    Treatment("early stopping", stop_early=True),
    Treatment("balanced data + early stopping", stream="balanced", stop_early=True),
)

S1_TREATMENTS = (
    Treatment("LoRA r=1, as the study", kind="study", rank=1, init_a=Normal(1.0)),
    Treatment("full fine-tuning, same batches", kind="suspect", rank=None, train=("*",)),
    Treatment("bias only, same batches", kind="suspect", rank=None, train=("*/bias",)),
    Treatment("LoRA r=1, balanced data", rank=1, init_a=Normal(1.0), stream="balanced"),
)


def draw_batches(stream: str, digit: int, labels: np.ndarray, seed: int, steps: int, batch_size: int) -> np.ndarray:
    """Indices [S, B] into the training set, digits in the stream's proportions; no image twice if it can be."""
    rng = np.random.default_rng([seed, digit])
    size = steps * batch_size
    weights = shares(stream, digit)
    if weights is None:
        rows = rng.choice(len(labels), size, replace=size > len(labels))
        return rows.reshape(steps, batch_size).astype(np.int32)
    drawn = rng.choice(10, size, p=weights)
    rows = np.empty(size, np.int64)
    for wanted in np.unique(drawn):
        where, pool = np.flatnonzero(drawn == wanted), np.flatnonzero(labels == wanted)
        rows[where] = rng.choice(pool, len(where), replace=len(where) > len(pool))
    return rows.reshape(steps, batch_size).astype(np.int32)
