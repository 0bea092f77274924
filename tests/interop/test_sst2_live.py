"""Is the PEFT folder that `bert_sst2.py --job=finetune` leaves, in real PEFT, the model that was trained? Skipped where torch or peft is missing."""

import json

import numpy as np
import pytest

from tests.experiments import entries, tiny_bert

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs
KINDS = ("praise", "blame", "neither")


def test_e6_real_peft_says_what_predict_says(tmp_path):
    base = tiny_bert.write(tmp_path / "bert", layers=2)
    words = (*tiny_bert.GOOD, *tiny_bert.BAD)[:3]
    rows = [f"the {tiny_bert.WORDS[n % 7]} {words[n % 3]},{KINDS[n % 3]}" for n in range(60)]
    (tmp_path / "mine.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    (tmp_path / "ask.txt").write_text("\n".join(row.split(",")[0] for row in rows[:9]) + "\n")
    given = (
        f"--bert={base}",
        f"--train_file={tmp_path / 'mine.csv'}",
        f"--workdir={tmp_path}",
        "--epochs=4",
        "--learning_rate=0.01",
    )
    assert entries.execute("bert_sst2.py", "--job=finetune", *given) == 0
    (folder,) = tmp_path.glob("bert_sst2_finetune-*")
    assert (
        entries.execute("bert_sst2.py", "--job=predict", f"--model={folder}", f"--sentences={tmp_path / 'ask.txt'}")
        == 0
    )
    said = json.loads((folder / "predictions.json").read_text())["predictions"]
    id2label = {int(number): word for number, word in json.loads((folder / "id2label.json").read_text()).items()}

    tokenizer = transformers.BertTokenizerFast(vocab_file=str(folder / "merged" / "vocab.txt"))
    batch = tokenizer([line["sentence"] for line in said], return_tensors="pt", padding=True)
    fresh = transformers.BertForSequenceClassification.from_pretrained(
        base, num_labels=len(id2label), id2label=id2label
    )
    models = {
        "peft": peft.PeftModel.from_pretrained(fresh, folder / "peft").eval(),
        "merged": transformers.AutoModelForSequenceClassification.from_pretrained(folder / "merged").eval(),
    }
    ours = np.asarray([line["logits"] for line in said])
    assert np.ptp(ours, axis=0).min() > 1e-2
    for name, model in models.items():
        with torch.no_grad():
            theirs = model(**batch).logits.numpy()
        np.testing.assert_allclose(theirs, ours, atol=2e-5, err_msg=name)
        assert [model.config.id2label[i] for i in theirs.argmax(1).tolist()] == [line["label"] for line in said]
