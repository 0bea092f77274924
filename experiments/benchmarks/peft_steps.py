"""LoRA training in PyTorch with Hugging Face PEFT; a program of its own, as the two must not share threads.

    python experiments/benchmarks/peft_steps.py SETTING STEPS ROUNDS     # prints {"seconds": [...], ...} as JSON

SETTING is mlp (S3's, see setting.py) or bert (see bert_setting.py). It imports nothing of this project, so any
interpreter that has torch and peft can run it.
"""

import json
import sys
import time

EXAMPLES = 4096


def mlp():
    """(model, optimiser, batch size, loss of rows): r = 16 on every layer."""
    import peft
    import torch
    from torch import nn

    layers: list[nn.Module] = []
    for features_in, features_out in ((784, 512), (512, 256), (256, 128)):
        layers += [nn.Linear(features_in, features_out), nn.ReLU(), nn.Dropout(0.2)]
    network = nn.Sequential(*layers, nn.Linear(128, 10))
    model = peft.get_peft_model(network, peft.LoraConfig(r=16, lora_alpha=16, target_modules=["0", "3", "6", "9"]))
    optimizer = torch.optim.Adam(_trainable(model), lr=1e-3)
    x, y = torch.randn(EXAMPLES, 784), torch.randint(0, 10, (EXAMPLES,))
    loss_fn = nn.CrossEntropyLoss()
    return model, optimizer, 64, lambda rows: loss_fn(model(x[rows]), y[rows])


def bert():
    """The same for BERT-tiny, with random weights and without dropout: r = 8 on query and value, and the classifier."""
    import peft
    import torch
    import transformers

    tiny = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    config = transformers.BertConfig(**tiny, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    lora = peft.LoraConfig(
        task_type="SEQ_CLS", r=8, lora_alpha=8, target_modules=["query", "value"], modules_to_save=["classifier"]
    )
    model = peft.get_peft_model(transformers.BertForSequenceClassification(config), lora)
    optimizer = torch.optim.AdamW(_trainable(model), lr=1e-3, weight_decay=0.01)
    x, y = torch.randint(1, config.vocab_size, (EXAMPLES, 64)), torch.randint(0, 2, (EXAMPLES,))
    mask = torch.ones_like(x)  # as a tokenizer gives it, and ours gets one
    return model, optimizer, 32, lambda rows: model(x[rows], attention_mask=mask[rows], labels=y[rows]).loss


def _trainable(model):
    return [p for p in model.parameters() if p.requires_grad]


def main(setting: str, steps: int, rounds: int) -> None:
    import peft
    import torch
    import transformers

    torch.manual_seed(0)
    model, optimizer, batch, loss_of = {"mlp": mlp, "bert": bert}[setting]()
    model.train()
    batches = torch.randint(0, EXAMPLES, (steps, batch))

    def epoch() -> float:
        start = time.perf_counter()
        for rows in batches:
            optimizer.zero_grad(set_to_none=True)
            loss_of(rows).backward()
            optimizer.step()
        return time.perf_counter() - start

    epoch()
    about = {module.__name__: module.__version__ for module in (torch, peft, transformers)}
    about |= {"threads": torch.get_num_threads(), "trainable": sum(p.numel() for p in _trainable(model))}
    print(json.dumps({"seconds": [epoch() for _ in range(rounds)], **about}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
