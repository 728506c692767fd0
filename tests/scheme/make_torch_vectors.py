"""Write torch_vectors.json: what PyTorch's CPU generator draws after `torch.manual_seed(seed)`.

The stream of the masks and pairs is a model of these draws that needs no PyTorch; this file is what the
tests compare it with.  Made in an environment of its own by

    python -m venv venv && venv/bin/pip install torch==2.13.0
    venv/bin/python tests/scheme/make_torch_vectors.py

The draws of each seed are made in the order of the entries, from one generator.
"""

import json
from pathlib import Path

import torch

SEEDS = (0, 42, 4294967295)


def draws(seed: int) -> list[dict[str, object]]:
    """Four draws in order, each with its name, its argument and the numbers that came."""
    torch.manual_seed(seed)
    made: list[dict[str, object]] = []
    for name, argument, numbers in (
        ("randperm", 10, torch.randperm(10)),
        ("randperm", 100, torch.randperm(100)),
        ("randint2", 64, torch.randint(2, (64,))),
        ("randperm", 7, torch.randperm(7)),
    ):
        made.append({"draw": name, "size": argument, "numbers": numbers.tolist()})
    return made


def main() -> None:
    """Write the file beside this script."""
    out = {
        "command": "python tests/scheme/make_torch_vectors.py",
        "torch": torch.__version__,
        "seeds": [{"seed": seed, "draws": draws(seed)} for seed in SEEDS],
    }
    entries = ",\n  ".join(json.dumps(entry) for entry in out["seeds"])
    head = f'"command": {json.dumps(out["command"])}, "torch": {json.dumps(out["torch"])}'
    text = f'{{{head}, "seeds": [\n  {entries}\n]}}\n'
    Path(__file__).with_name("torch_vectors.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
