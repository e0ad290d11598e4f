"""The row that trains nothing: what the pretrained weights know of the three tasks."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .batches import Batch, TokenizedExamples
from .inference import Predictor, map_batches
from .model import MultitaskModel
from .settings import Settings

_THRESHOLD_PAIRS = 1000


def zero_shot(
    model: MultitaskModel, tokens: Mapping[tuple[str, str], TokenizedExamples], settings: Settings
) -> Predictor:
    """Returns the predictions of the pretrained weights.

    Similarity is the cosine of the two sentence embeddings, a paraphrase a cosine above the threshold that
    does best on the first 1,000 train pairs, and sentiment the train file's most frequent class.

    Args:
        model: The encoder; its heads are not used.
        tokens: The tokenised data, train among them.
        settings: The device, the precision and the batch size.
    """

    def cosines(task: str, examples: TokenizedExamples) -> Tensor:
        def cosine(batch: Batch) -> Tensor:
            first, second = model.sentences(task, batch)
            return F.cosine_similarity(first, second, dim=-1)  # (B,)

        return map_batches(cosine, examples, model, settings)

    pairs = tokens["qqp", "train"]
    train_pairs = pairs.part(range(min(len(pairs), _THRESHOLD_PAIRS)))
    threshold = best_threshold(cosines("qqp", train_pairs), _labels(train_pairs))
    majority = _labels(tokens["sst", "train"]).mode().values

    def predict(task: str, examples: TokenizedExamples) -> Tensor:
        if task == "sst":
            return majority.expand(len(examples))
        found = cosines(task, examples)
        return found if task == "sts" else (found > threshold).long()

    return predict


def best_threshold(scores: Tensor, labels: Tensor) -> float:
    """Returns the threshold above which a score means label 1 with the fewest errors.

    Args:
        scores: ``(N,)``.
        labels: 0 or 1, ``(N,)``.

    Returns:
        A middle between two neighbouring scores, or an end: the lowest of the best.
    """
    ordered, order = scores.double().sort()
    ends = ordered[:1] - 1, ordered[-1:] + 1
    thresholds = torch.cat([ends[0], (ordered[:-1] + ordered[1:]) / 2, ends[1]])  # (N + 1,)
    right = ((ordered > thresholds[:, None]) == labels[order].bool()).sum(dim=1)  # (N + 1,)
    return float(thresholds[right.argmax()])


def _labels(examples: TokenizedExamples) -> Tensor:
    return torch.tensor([example.label for example in examples.examples], dtype=torch.float64)
