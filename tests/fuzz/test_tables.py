"""Are files of sentences, questions and plain text, whatever is in them, refused or read as an independent reader reads them?"""

import csv
import gzip
import io
import json
import pathlib
import tempfile

import hypothesis.strategies as st

from experiments.data import questions, text
from experiments.sst2 import sentences, tables
from tests.fuzz.judge import fuzzed, judged
from tests.fuzz.strategies import JUNK, NAMES, broken_bytes, text_of

ROWS = [
    ("a good film", "1"),
    ("a bad\tone", "0"),
    ('said "so", twice', "1"),
    ("\u00e9\u6f22 \U0001f600", "0"),
    ("one", "0"),
    ("two", "1"),
]
CELLS = st.text("ab01.,\"'\t \n\r\ufeff\u00e9\x00\x1b\u2028", max_size=8) | NAMES


def csv_of(rows):
    out = io.StringIO(newline="")
    csv.writer(out).writerows([("sentence", "label"), *rows])
    return out.getvalue().encode()


GOOD = {
    ".csv": csv_of(ROWS),
    ".tsv": "\n".join(
        f"{a}\t{b}" for a, b in [("sentence", "label"), *((a.replace("\t", " "), b) for a, b in ROWS)]
    ).encode(),
    ".jsonl": "\n".join(json.dumps({"sentence": a, "label": b}) for a, b in ROWS).encode(),
}


def placed(content, name):
    folder = tempfile.TemporaryDirectory()
    path = pathlib.Path(folder.name) / name
    path.write_bytes(content)
    return folder, str(path)


def column(row, known):
    return row[known[0]] if known[0] in row else row[next(name for name in row if name.lower() in known)]


def rows_of(content, kind):
    """(sentence, label) of every row that has a sentence, by the plainest reader there is."""
    said = content.decode("utf-8-sig")
    if kind == ".jsonl":
        found = [json.loads(line) for line in said.split("\n") if line.strip()]
        return [
            (column(row, tables.TEXTS).strip(), str(column(row, tables.LABELS)).strip())
            for row in found
            if column(row, tables.TEXTS).strip()
        ]
    if kind == ".csv":
        lines = list(csv.reader(io.StringIO(said, newline="")))
    else:
        lines = [line.split("\t") for line in said.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    names = [name.strip() for name in lines[0]]
    at = [
        names.index(next(n for n in [k[0], *names] if n in names and n.lower() in k))
        for k in (tables.TEXTS, tables.LABELS)
    ]
    return [(row[at[0]].strip(), row[at[1]].strip()) for row in lines[1:] if len(row) > 1 and row[at[0]].strip()]


def labelled(content, kind):
    folder, path = placed(content, f"table{kind}")
    with folder:
        found, known = sentences.read(path)
        return [
            (sentence, known.written[number])
            for sentence, number in zip(found.sentences, found.labels.tolist(), strict=True)
        ]


def agrees(content, kind):
    return lambda found, _: found == rows_of(content, kind)


KINDS = st.sampled_from(sorted(GOOD))


@fuzzed(0.05, data=st.data(), kind=KINDS)
def test_bytes_of_a_table(data, kind):
    content = data.draw(broken_bytes(GOOD[kind]))
    judged(f"tables ({kind})", lambda: labelled(content, kind), same=agrees(content, kind), of=content)


@fuzzed(0.03, rows=st.lists(st.tuples(CELLS, CELLS | st.sampled_from(["0", "1", "a"])), max_size=6), kind=KINDS)
def test_cells_of_any_text(rows, kind):
    rows = rows + ROWS if len(rows) % 2 else rows
    lines = {".csv": lambda: csv_of(rows), ".tsv": lambda: "\n".join(["sentence\tlabel", *map("\t".join, rows)]).encode("utf-8", "surrogatepass"),
             ".jsonl": lambda: "\n".join(json.dumps({"sentence": a, "label": b}) for a, b in rows).encode()}  # fmt: skip
    try:
        content = lines[kind]()
    except UnicodeEncodeError:
        content = b"sentence,label\n\xed\xa0\x80,1"
    judged(f"tables ({kind})", lambda: labelled(content, kind), same=agrees(content, kind), of=content)


@fuzzed(
    0.02,
    lines=st.lists(JUNK, max_size=4),
    names=st.lists(st.sampled_from(["sentence", "label", "text", "class"]) | NAMES, max_size=3),
)
def test_objects_of_any_shape(lines, names):
    whole = [{**dict.fromkeys(names, line), "sentence": "a"} if len(names) % 2 else line for line in lines]
    content = b"\n".join(map(text_of, whole))
    judged("tables (.jsonl)", lambda: labelled(content, ".jsonl"), same=agrees(content, ".jsonl"), of=content)


ALPACA = [{"instruction": "Say a.", "input": "", "output": "a"}, {"instruction": "Say b.", "input": "x", "output": "b"}]
QUESTIONS = {".json": json.dumps(ALPACA).encode(), ".jsonl": b"\n".join(map(text_of, ALPACA))}


def asked(content, name):
    folder, path = placed(content, name)
    with folder:
        found = questions.read(path)
        text_of(found.pairs), found.checksum
        return len(found.pairs) + sum(found.left_out.values()), [
            pair for pair in found.pairs if not (pair.question.strip() and pair.answer.strip())
        ]


def number_of(content, kind):
    said = content.decode()
    found = json.loads(said) if kind == ".json" else [json.loads(line) for line in said.split("\n") if line.strip()]
    return len(found) if isinstance(found, list) else 1


@fuzzed(0.04, data=st.data(), kind=st.sampled_from(sorted(QUESTIONS)), is_packed=st.booleans())
def test_questions(data, kind, is_packed):
    more = st.lists(JUNK, max_size=3).map(lambda rows: b"\n".join([QUESTIONS[kind], *map(text_of, rows)]))
    content = data.draw(broken_bytes(QUESTIONS[kind]) | more)
    written = gzip.compress(content, mtime=0) if is_packed else content
    if is_packed and data.draw(st.booleans()):
        written = data.draw(broken_bytes(gzip.compress(QUESTIONS[kind], mtime=0)))
        content = QUESTIONS[kind]
    name = f"questions{kind}" + ".gz" * is_packed
    judged(
        f"questions ({kind})",
        lambda: asked(written, name),
        same=lambda found, _: found == (number_of(content, kind), []),
        of=(name, written),
    )


CORPUS = b"One document of words.\nIts second line.\n\nAnother document. It has more.\n"


@fuzzed(0.03, data=st.data(), kind=st.sampled_from([".txt", ".jsonl", ".txt.gz"]))
def test_corpora(data, kind):
    good = b"\n".join(text_of({"text": part}) for part in ("one", "two")) if kind == ".jsonl" else CORPUS
    content = data.draw(broken_bytes(gzip.compress(good, mtime=0) if kind.endswith("gz") else good))
    judged(
        f"corpora ({kind})",
        lambda: documents(content, kind),
        same=lambda found, _: found == plainly(content, kind),
        of=content,
    )


def documents(content, kind):
    folder, path = placed(content, f"corpus{kind}")
    with folder:
        return list(text.documents([path]))


def plainly(content, kind):
    said = (
        (gzip.decompress(content) if kind.endswith("gz") else content)
        .decode()
        .replace("\r\n", "\n")
        .replace("\r", "\n")
    )
    if kind == ".jsonl":
        return [json.loads(line.removeprefix("\ufeff"))["text"] for line in said.split("\n") if line.strip()]
    parts, now = [], []
    for line in [*said.removeprefix("\ufeff").split("\n"), ""]:
        if line.strip():
            now.append(line)
        elif now:
            parts, now = [*parts, "\n".join(now).strip()], []
    return parts
