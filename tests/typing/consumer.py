"""What a typed program does with both libraries; mypy --strict and pyright check it, nothing runs it."""

import torch
from torch import Tensor, nn
from torch.optim.adamw import AdamW  # torch 2.4 says of torch.optim's own names that they are not exported
from torch.optim.optimizer import Optimizer
from typing_extensions import assert_type

from gradsurgery import GSE, ConflictHistory, ConflictReport, Diagnosis, GradientSurgery, PCGrad, diagnose
from smartreg import SMART, BregmanProximalPoint, EmbeddingFunction, SmartTerms, symmetric_kl

model = nn.Linear(4, 2)
x = torch.randn(8, 4)


def loss() -> Tensor:
    """Returns a loss."""
    return torch.mean(model(x).square())


class Halves(GradientSurgery):
    """A method of one's own."""

    def weights(self, gramian: Tensor) -> Tensor:
        """Returns one half for each task."""
        return torch.full_like(gramian.diagonal(), 0.5)


inner = AdamW(model.parameters(), lr=1e-3)
optimizer = PCGrad(inner, reduction="mean", scope=model.parameters, task_weights={"a": 1.0, "b": 2.0})
assert_type(optimizer.backward({"a": loss, "b": loss()}), dict[str, Tensor | None])
assert_type(optimizer.conflicts, ConflictReport | None)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
two: Optimizer = GSE(Halves(inner), second_update="reuse")
PCGrad(inner, reduction="median")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

history = ConflictHistory(max_points=10)
if optimizer.conflicts is not None:
    history.record(0, optimizer.conflicts)
    assert_type(optimizer.conflicts.cosines, Tensor)
    assert_type(optimizer.conflicts.conflict_rate, float)
assert_type(diagnose({"a": loss, "b": loss}, model.parameters(), samples=5), Diagnosis)

smart = SMART(epsilon=1e-5, dropout="shared", detach_clean=True)
SMART(norm="l3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
embed = EmbeddingFunction(model, model)
bound, embeddings = embed.bind(x)
outputs, penalty = smart.penalize(bound, embeddings)
assert_type(penalty, Tensor)
assert_type(smart(bound, embeddings), Tensor)
terms = smart.backward(bound, embeddings, lambda logits: logits.sum(), weight=5.0)
assert_type(terms, SmartTerms)
assert_type(terms.penalty, Tensor)
proximal = BregmanProximalPoint(model, momentum=0.99, divergence={"logits": symmetric_kl})
proximal.update()
