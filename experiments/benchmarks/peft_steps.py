"""LoRA training in PyTorch with Hugging Face PEFT; a program of its own, as the two must not share threads.

    python experiments/benchmarks/peft_steps.py SETTING STEPS ROUNDS DEVICE     # prints {"seconds": [...], ...} as JSON

SETTING is mlp (S3's, see setting.py), bert (see bert_setting.py), lm, lm26 or instructions (see lm_setting.py), or "generation, B" for
B prompts, where STEPS are new tokens. DEVICE is cpu or cuda, where float32 products run in TF32, as JAX's do. It imports nothing of this
project, so any interpreter that has torch and peft can run it.
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


def lm():
    """A Llama-like decoder of the same sizes as ours (lm_setting.py): 16 rows of 256 tokens, r = 8 on every linear layer."""

    return _language_model(_llama(), rows=64, tokens=256, batch=16)


def lm26():
    """The study's own size: 32 rows of 512 tokens; computed in bfloat16, which the base is kept in, adapters in float32."""
    large = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8}
    return _in_bfloat16(32, 512, **large, num_attention_heads=8, max_position_embeddings=512)


def lm26_smoke():
    """The same, as small as a smoke test has it (gpu/lm26.py)."""
    small = {"vocab_size": 1600, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2}
    return _in_bfloat16(2, 64, **small, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64)


def _in_bfloat16(batch: int, tokens: int, **sizes):
    import torch

    model = _llama(**sizes).to(torch.bfloat16)
    for parameter in _trainable(model):
        parameter.data = parameter.data.float()
    model, optimizer, batch, loss = _language_model(model, rows=2 * batch, tokens=tokens, batch=batch)

    def autocast(rows):
        with torch.autocast(model.device.type, dtype=torch.bfloat16):
            return loss(rows)

    return model, optimizer, batch, autocast


def _language_model(model, *, rows: int, tokens: int, batch: int):
    import torch

    optimizer = torch.optim.AdamW(_trainable(model), lr=1e-3, weight_decay=1e-4)
    x = torch.randint(0, model.config.vocab_size, (rows, tokens))
    return model, optimizer, batch, lambda of: model(input_ids=x[of % rows], labels=x[of % rows]).loss


def _llama(**more):
    import peft
    import transformers

    sizes = {"vocab_size": 6400, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256}
    config = transformers.LlamaConfig(**{**sizes, **heads, **more}, tie_word_embeddings=True)
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=8, target_modules="all-linear")
    return peft.get_peft_model(transformers.LlamaForCausalLM(config), lora)


def instructions():
    """(model, a pass): batches of 32 instructions padded to their longest, answers alone scored; lengths from stdin."""
    import torch

    lengths = json.load(sys.stdin)
    model = _llama()
    optimizer = torch.optim.AdamW(_trainable(model), lr=1e-3, weight_decay=1e-4)
    batches = []
    for start in range(0, len(lengths), 32):
        part = lengths[start : start + 32]
        longest = max(q + a for q, a in part)
        ids = torch.randint(4, 6400, (len(part), longest))
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, (q, a) in enumerate(part):
            mask[row, : q + a] = 1
            labels[row, q : q + a] = ids[row, q : q + a]
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return model, lambda: _train(optimizer, [lambda batch=batch: model(**batch).loss for batch in batches])


def generation(batch: int, new_tokens: int):
    """(model, greedy answers of so many tokens) for prompts of 32."""
    import torch

    model = _llama().eval()
    prompts = torch.randint(4, 6400, (batch, 32))

    def work():
        with torch.no_grad():
            model.generate(
                input_ids=prompts, attention_mask=torch.ones_like(prompts), do_sample=False, use_cache=True,
                max_new_tokens=new_tokens, min_new_tokens=new_tokens, pad_token_id=0,
            )  # fmt: skip

    return model, work


def _trainable(model):
    return [p for p in model.parameters() if p.requires_grad]


def _train(optimizer, losses) -> None:
    for loss in losses:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()


def steps_of(setting, steps: int):
    """(model, an epoch of so many steps) on batches drawn once."""
    import torch

    model, optimizer, batch, loss_of = setting()
    model.train()
    batches = torch.randint(0, EXAMPLES, (steps, batch))
    return model, lambda: _train(optimizer, [lambda rows=rows: loss_of(rows) for rows in batches])


def main(setting: str, steps: int, rounds: int, device: str) -> None:
    import peft
    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_default_device(device)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    ways = {
        "mlp": lambda: steps_of(mlp, steps),
        "bert": lambda: steps_of(bert, steps),
        "lm": lambda: steps_of(lm, steps),
        "lm26": lambda: steps_of(lm26, steps),
        "lm26, smoke": lambda: steps_of(lm26_smoke, steps),
        "instructions": instructions,
        "generation, 1": lambda: generation(1, steps),
        "generation, 16": lambda: generation(16, steps),
    }
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    model, work = ways[setting]()
    work()
    seconds = []
    for _ in range(rounds):
        finish()
        start = time.perf_counter()
        work()
        finish()
        seconds.append(time.perf_counter() - start)
    about = {module.__name__: module.__version__ for module in (torch, peft, transformers)}
    about |= {"threads": torch.get_num_threads(), "trainable": sum(p.numel() for p in _trainable(model))}
    if device == "cuda":
        about["peak_bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps({"seconds": seconds, **about}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
