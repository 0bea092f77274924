"""LoRA training in PyTorch with Hugging Face PEFT; a program of its own, as the two must not share threads.

    python experiments/benchmarks/peft_steps.py SETTING STEPS ROUNDS DEVICE     # prints {"seconds": [...], ...} as JSON

SETTING is mlp (S3's, see setting.py), bert (see bert_setting.py), lm, lm26 or instructions (see lm_setting.py), smollm2 or "smollm2, bfloat16"
(see smollm2.py; ", smoke" after a name makes it small); or "generation, B" and "smollm2 generation, B" for B prompts, where STEPS are new tokens.
DEVICE is cpu or cuda, where float32 products run in TF32, as JAX's do. It imports nothing of this project, so any interpreter that has torch
and peft can run it.
"""

import json
import pathlib
import sys
import time

EXAMPLES = 4096
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


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

    return _language_model(_adapted(_llama()), rows=64, tokens=256, batch=16)


def lm26():
    """The study's own size: 32 rows of 512 tokens; computed in bfloat16, which the base is kept in, adapters in float32."""
    large = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8}
    return _in_bfloat16(32, 512, **large, num_attention_heads=8, max_position_embeddings=512)


def lm26_smoke():
    """The same, as small as a smoke test has it (gpu/decoder.py)."""
    small = {"vocab_size": 1600, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2}
    return _in_bfloat16(2, 64, **small, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64)


def _in_bfloat16(batch: int, tokens: int, **sizes):
    return _autocast(_adapted(_llama(**sizes)), batch, tokens)


def _autocast(model, batch: int, tokens: int):
    import torch

    model = model.to(torch.bfloat16)
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


def smollm2():
    """SmolLM2-135M: 8 rows of 128 tokens, r = 8 on the seven projections of each layer."""
    return _language_model(_adapted(_smollm2()), rows=16, tokens=128, batch=8)


def smollm2_smoke():
    """The same, as small as tests have it."""
    return _language_model(_adapted(_smollm2(**SMALL)), rows=4, tokens=16, batch=2)


def smollm2_bfloat16():
    """As `lm26`: 32 rows of 512 tokens."""
    return _autocast(_adapted(_smollm2()), 32, 512)


def smollm2_bfloat16_smoke():
    """The same, as small as a smoke test has it (gpu/decoder.py)."""
    return _autocast(_adapted(_smollm2(**SMALL)), 2, 64)


SMALL = {"vocab_size": 1600, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 3,
         "num_key_value_heads": 1}  # fmt: skip


def _smollm2(**less):
    sizes = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192}
    return _llama(**{**sizes, **heads, **less})


def _llama(**more):
    """The base, with PyTorch's scaled dot-product attention."""
    import transformers

    sizes = {"vocab_size": 6400, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256}
    config = transformers.LlamaConfig(**{**sizes, **heads, **more}, tie_word_embeddings=True)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


def _adapted(base):
    import peft

    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=8, target_modules=PROJECTIONS)
    return peft.get_peft_model(base, lora)


def instructions():
    """(model, a pass): batches of 32 instructions padded to their longest, answers alone scored; lengths from stdin."""
    import torch

    lengths = json.load(sys.stdin)
    model = _adapted(_llama())
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


def generation(base, batch: int, new_tokens: int):
    """(the base, greedy answers of so many tokens) for prompts of 32; none ends early."""
    import torch

    model = base.eval().requires_grad_(False)
    model.generation_config.eos_token_id = None
    prompts = torch.randint(4, model.config.vocab_size, (batch, 32))

    def work():
        with torch.no_grad():
            made = model.generate(
                input_ids=prompts, attention_mask=torch.ones_like(prompts), do_sample=False, use_cache=True,
                max_new_tokens=new_tokens, pad_token_id=0,
            )  # fmt: skip
        assert made.shape == (batch, 32 + new_tokens)

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


def peak_rss_bytes() -> int:
    """What this process has held at most. (`ru_maxrss` would count what its parent held when it was started.)"""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def ways(steps: int):
    """Name of a setting -> () -> (model, what is timed)."""
    trained = {
        "mlp": mlp,
        "bert": bert,
        "lm": lm,
        "lm26": lm26,
        "lm26, smoke": lm26_smoke,
        "smollm2": smollm2,
        "smollm2, smoke": smollm2_smoke,
        "smollm2, bfloat16": smollm2_bfloat16,
        "smollm2, bfloat16, smoke": smollm2_bfloat16_smoke,
    }
    asked = [("generation", _llama, 1), ("generation", _llama, 16)]
    asked += [("smollm2 generation", _smollm2, 1), ("smollm2 generation", _smollm2, 8)]
    return {
        **{name: lambda of=of: steps_of(of, steps) for name, of in trained.items()},
        "instructions": instructions,
        **{f"{name}, {batch}": lambda of=of, n=batch: generation(of(), n, steps) for name, of, batch in asked},
    }


def main(setting: str, steps: int, rounds: int, device: str) -> None:
    import peft
    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_default_device(device)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    model, work = ways(steps)[setting]()
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
    if sys.platform == "linux":
        about["peak_rss_bytes"] = peak_rss_bytes()
    if device == "cuda":
        about["peak_bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps({"seconds": seconds, **about}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
