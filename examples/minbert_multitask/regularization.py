"""A task's loss, with SMART's penalty where the row asks for it."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from smartreg import SMART

from .batches import Batch
from .experiments import TASKS, Experiment
from .model import MultitaskModel

TaskLoss = Callable[[str, Batch], Tensor]


def task_loss(model: MultitaskModel, experiment: Experiment) -> TaskLoss:
    """Returns the function from a task and a batch to the loss, 0-d, that this row minimises."""

    def plain(task: str, batch: Batch) -> Tensor:
        return model.head(task).loss(model(task, batch), batch.labels)

    if experiment.smart is None:
        return plain
    # smart-pytorch takes the clean outputs for constants, and of QQP's one logit a softmax: no penalty there.
    as_library = experiment.smart == "smart-pytorch"
    regularizers = {
        task: SMART(preset=experiment.smart, divergence=model.head(task).divergence, detach_clean=as_library)
        for task in TASKS
        if not (as_library and task == "qqp")
    }

    def smooth(task: str, batch: Batch) -> Tensor:
        if task not in regularizers:
            return plain(task, batch)
        embeddings, masks = model.embed(task, batch)
        forward = partial(model.outputs, task, masks=masks)
        outputs, penalty = regularizers[task].penalize(forward, embeddings, mask=masks)
        return model.head(task).loss(outputs, batch.labels) + experiment.smart_weight * penalty

    return smooth
