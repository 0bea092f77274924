"""S3's LoRA training in PyTorch with Hugging Face PEFT; a program of its own, as the two must not share threads.

    python experiments/benchmarks/peft_steps.py STEPS ROUNDS     # prints {"seconds": [...], ...} as JSON

It imports nothing of this project, so any interpreter that has torch and peft can run it.
"""

import json
import statistics
import sys
import time


def main(steps: int, rounds: int) -> None:
    import peft
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for features_in, features_out in ((784, 512), (512, 256), (256, 128)):
        layers += [nn.Linear(features_in, features_out), nn.ReLU(), nn.Dropout(0.2)]
    network = nn.Sequential(*layers, nn.Linear(128, 10))
    config = peft.LoraConfig(r=16, lora_alpha=16, target_modules=["0", "3", "6", "9"])
    model = peft.get_peft_model(network, config)
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    x, y = torch.randn(4096, 784), torch.randint(0, 10, (4096,))
    batches = torch.randint(0, 4096, (steps, 64))
    loss_fn = nn.CrossEntropyLoss()

    def epoch() -> float:
        start = time.perf_counter()
        for rows in batches:
            optimizer.zero_grad(set_to_none=True)
            loss_fn(model(x[rows]), y[rows]).backward()
            optimizer.step()
        return time.perf_counter() - start

    epoch()
    seconds = [epoch() for _ in range(rounds)]
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    versions = {"torch": torch.__version__, "peft": peft.__version__, "threads": torch.get_num_threads()}
    print(json.dumps({"seconds": seconds, "median": statistics.median(seconds), "trainable": trainable, **versions}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
