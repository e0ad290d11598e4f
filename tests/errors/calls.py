"""Bad calls of the libraries and of the program, by name: what a user would do wrong, once each."""

from functools import partial

import torch
from torch import nn

from gradsurgery import (
    DWA,
    GSE,
    CAGrad,
    ConflictHistory,
    Constant,
    GradientSurgery,
    GradVac,
    Mean,
    NashMTL,
    PCGrad,
    UncertaintyWeighting,
    compile_kernels,
    diagnose,
)
from smartreg import (
    SMART,
    BregmanProximalPoint,
    EmbeddingFunction,
    bernoulli_symmetric_kl,
    squared_error,
    symmetric_kl,
)
from tests.minbert_multitask.places import RUN, TRAIN

weight = nn.Parameter(torch.ones(3))
model = nn.Linear(3, 2)
x = torch.ones(4, 5, 3)


def sgd():
    return torch.optim.SGD([weight], lr=0.1)


def loss():
    return weight.sum()


def backward(losses, **options):
    return PCGrad(sgd(), **options).backward(losses)


def used_up():
    value = loss() ** 2
    value.backward()
    weight.grad = None
    backward({"a": value})


def penalize(forward=model, embeddings=x, *, mask=None, **options):
    return SMART(**options).penalize(forward, embeddings, mask=mask)


GRADSURGERY = {
    "optimizer of parameters": lambda: PCGrad([weight]),
    "optimizer wrapped twice": lambda: PCGrad(PCGrad(sgd())),
    "optimizer of two updates wrapped": lambda: GSE(GSE(sgd())),
    "generator": lambda: PCGrad(sgd(), generator=5),
    "task_weights in a list": lambda: PCGrad(sgd(), task_weights=[1.0, 2.0]),
    "history of no report": lambda: ConflictHistory().record(0, PCGrad(sgd()).conflicts),
    "kernels without a compiler": lambda: compile_kernels("no-such-cc"),
    "kernels by what does not compile": lambda: compile_kernels("false"),
    "optimizer with a closure": lambda: PCGrad(torch.optim.LBFGS([weight])),
    "reduction": lambda: PCGrad(sgd(), reduction="median"),
    "granularity": lambda: PCGrad(sgd(), granularity="layer"),
    "nonfinite": lambda: PCGrad(sgd(), nonfinite="skip"),
    "scope, a word": lambda: PCGrad(sgd(), scope="encoder"),
    "scope, a module": lambda: PCGrad(sgd(), scope=model),
    "scope, a tensor": lambda: PCGrad(sgd(), scope=weight),
    "scope, a number": lambda: PCGrad(sgd(), scope=3),
    "scope of names": lambda: PCGrad(sgd(), scope=["encoder.weight"]),
    "scope of another model": lambda: backward([loss, loss], scope=model.parameters),
    "task_weights of zero": lambda: PCGrad(sgd(), task_weights={"a": 0.0}),
    "task_weights without the task": lambda: backward({"b": loss}, task_weights={"a": 1.0}),
    "breakdown": lambda: PCGrad(sgd(), breakdown="layer"),
    "losses summed": lambda: backward(loss()),
    "losses of none": lambda: backward({}),
    "losses by number": lambda: backward({1: loss}),
    "losses as pairs": lambda: backward([("a", loss())]),
    "loss as a number": lambda: backward({"a": 2.5}),
    "loss of a batch": lambda: backward({"a": weight * 2}),
    "loss detached": lambda: backward({"a": torch.ones(())}),
    "loss of other parameters": lambda: backward({"a": model(torch.ones(3)).sum}),
    "loss back-propagated before": used_up,
    "loss of nan": lambda: backward({"a": lambda: loss() * float("nan")}, nonfinite="raise"),
    "method without weights": lambda: GradientSurgery(sgd()).backward([loss, loss]),
    "GSE, second_update": lambda: GSE(sgd(), second_update="twice"),
    "GSE of losses": lambda: GSE(sgd()).backward({"a": loss()}),
    "GSE before a backward": lambda: GSE(sgd()).step(),
    "GradVac, beta": lambda: GradVac(sgd(), beta=1.5),
    "CAGrad, c": lambda: CAGrad(sgd(), c=-1.0),
    "NashMTL, update_every": lambda: NashMTL(sgd(), update_every=0),
    "Mean, reduction": lambda: Mean(sgd(), reduction="sum"),
    "Constant, task_weights": lambda: Constant(sgd(), task_weights={"a": float("inf")}),
    "UncertaintyWeighting of no task": lambda: UncertaintyWeighting([]),
    "DWA, temperature": lambda: DWA(temperature=0.0),
    "ConflictHistory, max_points": lambda: ConflictHistory(max_points=1),
    "diagnose of losses": lambda: diagnose({"a": loss(), "b": loss()}, [weight]),
    "diagnose of one task": lambda: diagnose({"a": loss}, [weight]),
    "diagnose, samples": lambda: diagnose({"a": loss, "b": loss}, [weight], samples=2),
    "diagnose of no parameter": lambda: diagnose({"a": loss, "b": loss}, iter(())),
    "diagnose, level": lambda: diagnose({"a": loss, "b": loss}, [weight], level=95),
}

SMARTREG = {
    "preset": lambda: SMART(preset="mt-dnn"),
    "dropout": lambda: SMART(dropout="off"),
    "epsilon": lambda: SMART(epsilon=-1e-5),
    "step_size": lambda: SMART(step_size=float("nan")),
    "noise_std": lambda: SMART(noise_std=-1.0),
    "num_steps": lambda: SMART(num_steps=-1),
    "norm": lambda: SMART(norm="l1"),
    "scope": lambda: SMART(scope="batch"),
    "embeddings of ids": lambda: penalize(embeddings=torch.ones(4, 5, dtype=torch.long)),
    "embeddings of none": lambda: penalize(embeddings=()),
    "embeddings of other batches": lambda: penalize(embeddings=(x, x[:2])),
    "mask of another shape": lambda: penalize(mask=torch.ones(3, 5)),
    "mask to be added": lambda: penalize(mask=torch.full((4, 5), -1e4)),
    "epsilon below the spacing": lambda: penalize(model.bfloat16().float(), x.bfloat16()),
    "forward that ignores its argument": lambda: penalize(lambda _: torch.ones(4, 2)),
    "outputs in a list": lambda: penalize(lambda e: [model(e)]),
    "outputs without the name": lambda: penalize(
        lambda e: {"scores": model(e)}, divergence={"logits": symmetric_kl}
    ),
    "divergence by sample": lambda: penalize(divergence=lambda p, q: (p - q).square().mean(dim=(1, 2))),
    "rng without outputs": lambda: SMART(dropout="shared")(model, x, model(x)),
    "diagnose of other parameters": lambda: SMART().diagnose(
        model, x, loss=torch.sum, parameters=[weight], weight=1.0
    ),
    "diagnose of a loss": lambda: SMART().diagnose(model, x, loss=loss(), parameters=[weight], weight=1.0),
    "output_mask to be added": lambda: SMART()(model, x, output_mask=torch.full((4, 5), -1e4)),
    "output_mask of smart-pytorch": lambda: SMART(preset="smart-pytorch")(
        model, x, output_mask=torch.ones(4)
    ),
    "forward in place": lambda: penalize(nn.Sequential(nn.ReLU(inplace=True), model), x.clone()),
    "loss in place": lambda: SMART().backward(model, x, lambda o: o.mul_(2).sum(), weight=1.0),
    "loss of a sample": lambda: SMART().backward(model, x, lambda o: o.sum(dim=(1, 2)), weight=1.0),
    "loss by item": lambda: SMART().backward(model, x, lambda o: o.sum().item(), weight=1.0),
    "buffers without a shape": lambda: SMART().backward(nn.LazyBatchNorm1d(), x.mT, torch.sum, weight=1.0),
    "one logit": lambda: symmetric_kl(torch.ones(4, 1), torch.ones(4, 1)),
    "logits of other shapes": lambda: squared_error(torch.ones(4, 2), torch.ones(4, 3)),
    "divergence's mask": lambda: bernoulli_symmetric_kl(torch.ones(4), torch.ones(4), mask=torch.ones(3)),
    "momentum": lambda: BregmanProximalPoint(model, momentum=1.0),
    "embedding of another model": lambda: EmbeddingFunction(model, nn.Embedding(3, 3)),
    "calls": lambda: EmbeddingFunction(model, model, calls=0),
}

_train = (*TRAIN, "new")
MINBERT = {
    "no command": (),
    "unknown command": ("fly",),
    "unknown row": ("train", "gsee"),
    "unknown option": (*_train, "--momentum", "0.9"),
    "option cut short": (*_train, "--epoch", "3"),
    "words for a number": (*_train, "--seed", "many"),
    "epochs of none": (*_train, "--epochs", "0"),
    "batch of none": (*_train, "--batch-size", "-1"),
    "learning rate": (*_train, "--lr", "nan"),
    "learning rate that diverges": (*_train, "--lr", "1e30", "--epochs", "2"),
    "layers": (*_train, "--layers", "7"),
    "device": (*_train, "--device", "tpu"),
    "precision": (*_train, "--precision", "fp8"),
    "jobs": (*_train, "--jobs", "0"),
    "data nowhere": (*_train, "--data", "nowhere"),
    "data without files": (*_train, "--data", "weights"),
    "weights nowhere": (*_train, "--weights", "./nowhere"),
    "weights without files": (*_train, "--weights", "data"),
    "runs in a file": (*TRAIN, "data/sts-dev.csv"),
    "runs that are there": (*TRAIN, "runs"),
    "resume with another rate": (*TRAIN, "runs", "--resume", "--lr", "0.5"),
    "diagnosis without padding": ("diagnose-smart", "--packed"),
    "evaluate what is no run": ("evaluate", "data"),
    "evaluate with data nowhere": ("evaluate", str(RUN), "--data", "nowhere"),
    "predict what is stopped": ("predict", "stopped/multitask-11711"),
    "table of nothing": ("table", "data"),
    "figures of what is no result": ("figures", "weights/config.json"),
}

FILES = {
    "data that is empty": ("data/sts-dev.csv", lambda _: b""),
    "data cut short": ("data/quora-train.csv", lambda content: content[:-9]),
    "data not in UTF-8": ("data/sts-train.csv", lambda content: content.replace(b"the", b"th\xff", 1)),
    "data with commas": ("data/ids-sst-dev.csv", lambda content: content.replace(b"\t", b",")),
    "data with a quote left open": ("data/quora-dev.csv", lambda content: content + b'9\tid\t"Why\t?\t1\n'),
    "data with a field too few": ("data/sts-dev.csv", lambda content: content + b"9\tabc\n"),
    "data with another label": ("data/ids-sst-train.csv", lambda content: content + b"9\tabc\tFine.\t7\n"),
    "configuration cut short": ("weights/config.json", lambda content: content[:-4]),
    "configuration of another model": ("weights/config.json", lambda c: c.replace(b'"bert"', b'"gpt2"')),
    "vocabulary without [CLS]": ("weights/vocab.txt", lambda content: content.replace(b"[CLS]", b"[cls]")),
    "weights cut short": ("weights/model.safetensors", lambda content: content[:-100]),
    "result cut short": (f"{RUN}/result.json", lambda content: content[:-10]),
    "result of the future": (f"{RUN}/result.json", lambda c: c.replace(b'"version": 1', b'"version": 99', 1)),
    "checkpoint cut short": ("stopped/multitask-11711/checkpoint.pt", lambda content: content[:-100]),
    "predictions with another header": (f"{RUN}/predictions/sst-dev-output.csv", lambda c: b"id" + c),
}
"""By name, a file of the place and what is done to it."""


def message(call: partial) -> str:
    """Returns the error of a call of a library, with its type."""
    try:
        call()
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        weight.grad = None
    return "no error"
