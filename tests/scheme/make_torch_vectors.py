"""Write torch_vectors.json: what PyTorch's CPU generator draws after `torch.manual_seed(seed)`.

Made in an environment of its own: ``pip install torch==2.13.0; python tests/scheme/make_torch_vectors.py``. The draws
of each seed are made in the order of the entries, from one generator.
"""

import json
from pathlib import Path

import torch

DRAWS = (("randperm", 10), ("randperm", 100), ("randint2", 64), ("randperm", 7))


def draws(seed: int) -> list[dict[str, object]]:
    """The draws in order, each with its name, its argument and the numbers."""
    torch.manual_seed(seed)
    make = {"randperm": torch.randperm, "randint2": lambda size: torch.randint(2, (size,))}
    return [{"draw": name, "size": size, "numbers": make[name](size).tolist()} for name, size in DRAWS]


entries = ",\n  ".join(json.dumps({"seed": seed, "draws": draws(seed)}) for seed in (0, 42, 4294967295))
head = f'"command": "python tests/scheme/make_torch_vectors.py", "torch": {json.dumps(torch.__version__)}'
text = f'{{{head}, "seeds": [\n  {entries}\n]}}\n'
Path(__file__).with_name("torch_vectors.json").write_text(text, encoding="utf-8")
