"""A model's predictions for whole splits."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from .batches import Batch, TokenizedExamples
from .evaluate import METRIC_OF_TASK, Predictions, TaskPredictions, overall
from .experiments import TASKS
from .model import MultitaskModel
from .settings import Settings

Predictor: TypeAlias = Callable[[str, TokenizedExamples], Tensor]
"""From a task and N of its examples to the predictions ``(N,)`` on the CPU."""


def autocast(settings: Settings) -> torch.autocast:
    """Returns the context in which forwards run: bf16 autocast, or none for fp32."""
    return torch.autocast(
        settings.torch_device().type, dtype=torch.bfloat16, enabled=settings.precision == "bf16"
    )


def predictor(model: MultitaskModel, settings: Settings) -> Predictor:
    """Returns the model's own predictions, made in evaluation mode."""

    def predict(task: str, examples: TokenizedExamples) -> Tensor:
        head = model.head(task)
        return map_batches(lambda batch: head.predict(model(task, batch)), examples, model, settings)

    return predict


def map_batches(
    function: Callable[[Batch], Tensor],
    examples: TokenizedExamples,
    model: MultitaskModel,
    settings: Settings,
) -> Tensor:
    """Applies a function of the model to all examples, in evaluation mode and without a graph.

    Args:
        function: From a batch on the run's device to a tensor whose first dimension is the batch's.
        examples: N examples.
        model: The model that the function uses; its mode is restored.
        settings: The device, the precision and the batch size.

    Returns:
        The results in the examples' order, ``(N, …)`` in fp32 or whole numbers, on the CPU.
    """
    device = settings.torch_device()

    def on_device(batch: Batch) -> Tensor:
        with autocast(settings):
            results = function(batch.to(device))
        return results.float() if results.is_floating_point() else results

    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return examples.map(on_device, batch_size=settings.eval_batch_size)
    finally:
        model.train(was_training)


def predict_split(
    predict: Predictor,
    tokens: Mapping[tuple[str, str], TokenizedExamples],
    split: str,
    *,
    limit: int | None = None,
) -> Predictions:
    """Returns the predictions for one split of every task, of at most ``limit`` examples spread over each."""
    predictions = {}
    for task in TASKS:
        examples = tokens[task, split] if limit is None else tokens[task, split].spread(limit)
        predictions[task] = TaskPredictions.of(examples.examples, predict(task, examples).double().numpy())
    return predictions


def point_scores(predictions: Predictions) -> dict[str, float]:
    """Returns each task's score and the overall one, without intervals."""
    scores = {}
    for task in TASKS:
        gold = predictions[task].gold
        assert gold is not None
        scores[task] = float(METRIC_OF_TASK[task](predictions[task].predicted, gold))
    return {**scores, "overall": float(overall(scores["sst"], scores["qqp"], scores["sts"]))}
