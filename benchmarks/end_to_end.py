"""What the surgery adds to a step's forward and backward passes, and the memory of a step as it goes by.

With ``MALLOC_TRIM_THRESHOLD_`` set, so that the C library keeps freed memory, they go to another file.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from minbert_multitask.bert import BertConfig, BertModel
from minbert_multitask.files import write_atomically
from torch import Tensor, nn

from gradsurgery import GSE, PCGrad, vectors
from gradsurgery.projection import pcgrad_weights, random_order

from . import measure
from .peers import compiled_kernels

MINILM = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
BACKWARDS = "the T backwards"
SURGERY = "PCGrad.backward"
UPDATE = "AdamW.step"
COMPILED = ", compile_kernels()"


class Encoder(nn.Module):
    """An encoder with T linear heads, and a batch for each."""

    def __init__(self, config: BertConfig, tasks: int, rows: int, tokens: int) -> None:
        super().__init__()
        self.bert = BertModel(config)
        self.heads = nn.ModuleList(nn.Linear(config.hidden_size, 5) for _ in range(tasks))
        self.ids = torch.randint(config.vocab_size, (tasks, rows, tokens))
        self.labels = torch.randint(5, (tasks, rows))

    def loss(self, task: int) -> Tensor:
        ids = self.ids[task]
        hidden = self.bert(ids, torch.ones_like(ids)).last_hidden_state[:, 0]  # (B, D)
        return F.cross_entropy(self.heads[task](hidden), self.labels[task])


class Mlp(nn.Module):
    """Ten small linear layers of 20 tensors, where what a call costs is not its arithmetic."""

    def __init__(self, tasks: int, rows: int = 16, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(m for _ in range(10) for m in (nn.Linear(width, width), nn.Tanh())))
        self.x, self.y = torch.randn(rows, width), torch.randn(tasks, rows, width)

    def loss(self, task: int) -> Tensor:
        return F.mse_loss(self.layers(self.x), self.y[task])


class ProductsInHooks:
    """PCGrad whose products are taken by hooks, while a gradient is still in the cache of the backward.

    A gradient meets those of the tasks before it, which have left the cache: T (T - 1) / 2 gradients are
    read, where products after the last backward read T.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters

    def backward(self, tasks: Sequence[Callable[[], Tensor]]) -> None:
        """Writes the combined gradients into ``.grad``."""
        self.lower = np.zeros((len(tasks), len(tasks)))
        self.rows: list[dict[Tensor, Tensor]] = []
        hooks = [p.register_post_accumulate_grad_hook(self._multiply) for p in self.parameters]
        for task in tasks:
            self.rows.append({})
            task().backward()
        for hook in hooks:
            hook.remove()
        gramian = torch.from_numpy(self.lower + np.tril(self.lower, -1).T)
        weights = pcgrad_weights(gramian, random_order(len(tasks), torch.default_generator))
        reached = [p for p in self.parameters if any(p in row for row in self.rows)]
        pieces = [[row.get(p) for row in self.rows] for p in reached]
        vectors.combine(pieces, weights)
        for parameter, piece in zip(reached, pieces, strict=True):
            parameter.grad = vectors.first(piece)

    def _multiply(self, parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        self.rows[-1][parameter] = gradient
        task = len(self.rows) - 1
        for other, row in enumerate(self.rows):
            if parameter in row:
                pair = (vectors.flat(gradient), vectors.flat(row[parameter]))
                for a, b in zip(*(each.split(vectors.CHUNK) for each in pair), strict=True):
                    self.lower[task, other] += torch.dot(a, b).item()


def costs(model: Encoder | Mlp, tasks: int, rounds: int) -> dict[str, Any]:
    """Returns the times of a step's parts and of whole steps, each with the ratio to the T backwards."""
    parameters = list(model.parameters())
    callables = [lambda k=k: model.loss(k) for k in range(tasks)]
    adam = torch.optim.AdamW(parameters, lr=1e-6)
    surgery = PCGrad(adam)
    twice = {
        way: GSE(torch.optim.AdamW(parameters, lr=1e-6), second_update=way) for way in ("reuse", "recompute")
    }

    def backwards() -> None:
        for task in callables:
            model.zero_grad()
            task().backward()

    def summed() -> None:
        model.zero_grad()
        for task in callables:
            task().backward()

    def updated(optimizer: PCGrad | GSE) -> Callable[[], None]:
        def run() -> None:
            optimizer.zero_grad()
            optimizer.backward(callables)
            optimizer.step()

        return run

    def operated() -> None:
        surgery.zero_grad()
        surgery.backward(callables)

    hooks = ProductsInHooks(parameters)

    def operated_in_hooks() -> None:
        model.zero_grad()
        hooks.backward(callables)

    def sum_and_update() -> None:
        summed()
        adam.step()

    steps = {
        BACKWARDS: backwards,
        "the sum's backwards": summed,
        SURGERY: operated,
        f"{SURGERY}{COMPILED}": compiled_kernels()(operated),
        "PCGrad, products in hooks": operated_in_hooks,
        UPDATE: adam.step,
        "the sum and an update": sum_and_update,
        "PCGrad and an update": updated(surgery),
        "GSE, reuse, and two updates": updated(twice["reuse"]),
        "GSE, recompute, and two updates": updated(twice["recompute"]),
    }
    return measure.in_rounds(
        {name: (lambda step=step: step) for name, step in steps.items()},
        reference=BACKWARDS,
        device=torch.device("cpu"),
        rounds=rounds,
    )


def memory(model: Encoder, tasks: int) -> dict[str, Any]:
    """Returns the bytes alive over the course of a backward, the gradients of one task among them."""
    curves = {}
    for name in ("callables", "losses"):
        optimizer = PCGrad(torch.optim.SGD(model.parameters(), lr=0.1))
        optimizer.zero_grad()

        def run(name: str = name, optimizer: PCGrad = optimizer) -> None:
            found = [lambda k=k: model.loss(k) for k in range(tasks)]
            optimizer.backward(found if name == "callables" else [task() for task in found])

        curve = measure.alive_over_time(run)
        curves[name] = {
            "peak": max(alive for _, alive in curve),
            "curve": measure.thinned(curve),
        }
    return {"gradient": 4 * sum(p.numel() for p in model.parameters()), "by": curves}


def parser_of(script: str, description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Returns the parser of a script that measures a step of the encoder."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{script}", description=description)
    parser.add_argument("--tasks", type=int, default=3)
    parser.add_argument("--rows", type=int, default=8, help="in a task's batch")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--layers", type=int, default=MINILM.num_hidden_layers)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--output", type=Path, default=measure.RESULTS, help="a folder")
    return parser


def encoder_of(options: argparse.Namespace) -> tuple[Encoder, dict[str, Any]]:
    """Returns the encoder that the options ask for, on one thread, and what it is."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = BertConfig(**{**vars(MINILM), "num_hidden_layers": options.layers})
    encoder = Encoder(config, options.tasks, options.rows, options.tokens)
    return encoder, {
        "batch": {"tasks": options.tasks, "rows": options.rows, "tokens": options.tokens},
        "encoder": {"layers": options.layers, "width": config.hidden_size},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser_of("end_to_end", __doc__, rounds=8).parse_args(arguments)
    encoder, described = encoder_of(options)
    found = {
        **described,
        "memory": memory(encoder, options.tasks),
        "minilm": costs(encoder, options.tasks, options.rounds),
        "mlp": costs(Mlp(options.tasks), options.tasks, 20 * options.rounds),
        "measured_with": measure.facts(),
    }
    found["memory_is_kept"] = "MALLOC_TRIM_THRESHOLD_" in os.environ
    name = "end_to_end-kept.json" if found["memory_is_kept"] else "end_to_end.json"
    write_atomically(options.output / name, json.dumps(found, indent=2) + "\n")
    for model in ("minilm", "mlp"):
        for name, row in found[model].items():
            print(f"{model:8s}{name:36s}{row['cpu_ms']['median']:10.2f} ms {row['ratio']['median']:8.3f}")


if __name__ == "__main__":
    main()
