"""Two experiments on frozen embeddings: why d features fail, and why a linear head on [a; b] cannot do STS.

Both take the pretrained encoder as it is, so that nothing but the head is at work.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .batches import Batch
from .bert import BertModel
from .data import Example, load
from .evaluate import Array, pearson
from .experiments import EXPERIMENTS, Pooling
from .files import write_atomically
from .heads import MAX_SIMILARITY, CosineFeaturesSimilarity
from .inference import map_batches
from .inputs import DataSource, Inputs
from .model import MultitaskModel
from .settings import Settings
from .typed_json import to_plain

_RIDGES = tuple(10.0**power for power in range(-4, 5))
_HELD_OUT = 5  # every fifth training pair chooses the ridge
_NEAR_TOP = 0.1
_COLUMNS = (
    "cosine of",
    "cosines: 5 %, 50 %, 95 %",
    "output within 0.1 of 5",
    "slope under 1 %",
    "RMSE (of a constant)",
    "Pearson of the output",
    "of the cosine",
)
_FLAT = 0.01


@dataclass(frozen=True, kw_only=True)
class Saturation:
    """How 5 sigmoid(20 cos) treats the cosines of sentence pairs.

    Attributes:
        cosine_quantiles: The 5 %, 50 % and 95 % quantiles of the cosines on dev.
        near_top: Share of pairs whose output is within 0.1 of 5.
        flat: Share of pairs at which the slope is under a hundredth of its maximum: they teach nothing.
        error: Root mean squared error of the outputs.
        constant_error: That of the mean label for every pair.
        pearson: Of the outputs.
        cosine_pearson: Of the cosines themselves: what the sigmoid was given.
    """

    cosine_quantiles: tuple[float, ...]
    near_top: float
    flat: float
    error: float
    constant_error: float
    pearson: float
    cosine_pearson: float


@dataclass(frozen=True, kw_only=True)
class Mechanisms:
    """What both experiments found, on STS dev.

    Attributes:
        saturation: By where the cosine is taken: of the embeddings (``"cls"``, ``"mean"``), or of the
            untrained d features of the head (``"cls, d features"``).
        linear: Pearson's correlation of ridge regressions on frozen embeddings, by pooling and features;
            ``"[a; b]"`` is what an additive head can do with them.
        data_fingerprint: A hash of the data, as the runs' results give it.
        weights: The weights' name.
    """

    saturation: dict[str, Saturation]
    linear: dict[str, dict[str, float]]
    data_fingerprint: str
    weights: str

    def save(self, path: Path) -> None:
        """Writes the findings as JSON."""
        write_atomically(path, json.dumps(to_plain(self), indent=1, allow_nan=False) + "\n")

    def markdown(self) -> str:
        """Returns both as tables."""
        lines = [f"| {' | '.join(_COLUMNS)} |", "| :-- | :-: |" + " --: |" * 5]
        for name, found in self.saturation.items():
            quantiles = ", ".join(f"{value:.2f}" for value in found.cosine_quantiles)
            lines.append(
                f"| {name} | {quantiles} | {found.near_top:.0%} | {found.flat:.0%} "
                f"| {found.error:.2f} ({found.constant_error:.2f}) | {found.pearson:.3f} "
                f"| {found.cosine_pearson:.3f} |"
            )
        features = list(next(iter(self.linear.values())))
        lines += ["", f"| pooling | {' | '.join(features)} |", f"| :-- |{' --: |' * len(features)}"]
        for pooling, scores in self.linear.items():
            lines.append(f"| {pooling} | {' | '.join(f'{scores[name]:.3f}' for name in features)} |")
        return "\n".join(lines)


FEATURES: dict[str, Callable[[Array, Array], Array]] = {
    "[a; b]": lambda a, b: np.concatenate([a, b], axis=1),
    "[a; b; cos]": lambda a, b: np.concatenate([a, b, _cosines(a, b)[:, None]], axis=1),
    "[a; b; abs(a - b); a b]": lambda a, b: np.concatenate([a, b, np.abs(a - b), a * b], axis=1),
}
"""What a linear head may see of two embeddings ``(N, D)``."""


def measure(source: DataSource, settings: Settings) -> Mechanisms:
    """Runs both experiments.

    Args:
        source: Where the data is.
        settings: The weights, the layers, the seed of the untrained features, the device.

    Raises:
        ValueError: If the data or the weights are at fault.
    """
    inputs = Inputs.load(source, settings.weights, splits=("train", "dev"))
    saturations, linear = {}, {}
    for pooling in ("cls", "mean"):
        sides = {split: _embeddings(inputs, settings, pooling, split) for split in ("train", "dev")}
        labels = {split: _labels(inputs.dataset["sts", split]) for split in sides}
        linear[pooling] = {
            name: ridge_pearson(
                features(*sides["train"]), labels["train"], features(*sides["dev"]), labels["dev"]
            )
            for name, features in FEATURES.items()
        }
        saturations[pooling] = saturation(_cosines(*sides["dev"]), labels["dev"])
        if pooling == "cls":  # where the row cosine-d takes them
            torch.manual_seed(settings.seed)
            head = CosineFeaturesSimilarity(sides["dev"][0].shape[1]).double().eval()
            with torch.inference_mode():
                projected = [head.linear(torch.from_numpy(side)).numpy() for side in sides["dev"]]
            saturations["cls, d features"] = saturation(_cosines(*projected), labels["dev"])
    return Mechanisms(
        saturation=saturations,
        linear=linear,
        data_fingerprint=load(source.folder).fingerprint,
        weights=Path(settings.weights).name,
    )


def saturation(cosines: Array, labels: Array) -> Saturation:
    """Returns what 5 sigmoid(20 cos) makes of cosines ``(N,)`` of pairs with these labels ``(N,)``."""
    gates = 1 / (1 + np.exp(-20 * cosines))
    outputs, slopes = MAX_SIMILARITY * gates, 4 * gates * (1 - gates)  # the slope as a share of its maximum
    return Saturation(
        cosine_quantiles=tuple(np.quantile(cosines, (0.05, 0.5, 0.95)).tolist()),
        near_top=float(np.mean(outputs > MAX_SIMILARITY - _NEAR_TOP)),
        flat=float(np.mean(slopes < _FLAT)),
        error=float(np.sqrt(np.mean((outputs - labels) ** 2))),
        constant_error=float(labels.std()),
        pearson=float(pearson(outputs, labels)),
        cosine_pearson=float(pearson(cosines, labels)),
    )


def ridge_pearson(features: Array, labels: Array, dev_features: Array, dev_labels: Array) -> float:
    """Returns Pearson's correlation on dev of a ridge regression whose penalty a fifth of train chooses.

    Args:
        features: Of the training pairs, ``(N, F)``.
        labels: Theirs, ``(N,)``.
        dev_features: ``(M, F)``.
        dev_labels: ``(M,)``.
    """
    centre, spread = features.mean(axis=0), features.std(axis=0) + 1e-12
    features, dev_features = (features - centre) / spread, (dev_features - centre) / spread
    held_out = np.arange(len(labels)) % _HELD_OUT == 0
    fitted, chosen = ~held_out, _RIDGES[0]
    best = -np.inf
    for ridge in _RIDGES:
        weights = _ridge(features[fitted], labels[fitted], ridge)
        found = float(pearson(features[held_out] @ weights, labels[held_out]))
        if found > best:
            best, chosen = found, ridge
    return float(pearson(dev_features @ _ridge(features, labels, chosen), dev_labels))


def _ridge(features: Array, labels: Array, ridge: float) -> Array:
    gram = features.T @ features + ridge * len(labels) * np.eye(features.shape[1])
    weights: Array = np.linalg.solve(gram, features.T @ (labels - labels.mean()))
    return weights


def _embeddings(inputs: Inputs, settings: Settings, pooling: Pooling, split: str) -> tuple[Array, Array]:
    """Returns the embeddings of both sides of a split's pairs, ``(N, D)`` each."""
    row = EXPERIMENTS["multitask" if pooling == "cls" else "mean-pooling"]
    encoder = BertModel.from_pretrained(inputs.weights, num_layers=settings.layers)
    model = MultitaskModel(encoder, row).to(settings.torch_device())

    def both(batch: Batch) -> Tensor:
        return torch.stack(model.sentences("sts", batch), dim=1)  # (B, 2, D)

    found = map_batches(both, inputs.tokens["sts", split], model, settings).double().numpy()
    return found[:, 0], found[:, 1]


def _cosines(a: Array, b: Array) -> Array:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: Array = (a * b).sum(axis=1) / lengths
    return cosines


def _labels(examples: Sequence[Example]) -> Array:
    return np.array([example.label for example in examples], dtype=np.float64)
