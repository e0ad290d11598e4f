"""What SMART costs: one task's step in each of its forms, and SMART + GSE on minBERT's three tasks.

Forwards and activations are counted, bytes are the allocator's, and times are taken in rounds. Weights and
batches are random, since none of this depends on them.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from minbert_multitask.batches import Batch
from minbert_multitask.bert import BertConfig, BertModel
from minbert_multitask.experiments import EXPERIMENTS, TASKS
from minbert_multitask.files import write_atomically
from minbert_multitask.model import MultitaskModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gradsurgery import GSE
from smartreg import SMART

from . import measure
from .end_to_end import MINILM

FORWARD, ALONE = "one forward", "the task alone"
LARGEST, WITHOUT = "the largest task alone", "GSE without SMART"
WEIGHT = EXPERIMENTS["smart-gse"].smart_weight
MODELS = {"minilm": MINILM, "bert-base": BertConfig()}


class Work:
    """minBERT, and a batch for each task: one of sentences, two of sentence pairs."""

    def __init__(self, config: BertConfig, rows: int, tokens: int) -> None:
        torch.manual_seed(0)
        self.model = MultitaskModel(BertModel(config), EXPERIMENTS["smart-gse"]).train()
        self.batches = {}
        for task in TASKS:
            first, second = torch.randint(1, config.vocab_size, (2, rows, tokens))
            mask = torch.ones_like(first)
            pair = {} if task == "sst" else {"input_ids2": second, "attention_mask2": mask}
            labels = torch.randint(2, (rows,)).float()
            self.batches[task] = Batch(
                ids=("",) * rows, labels=labels, input_ids=first, attention_mask=mask, **pair
            )

    def forward(self, task: str) -> Tensor:
        return self.model(task, self.batches[task])

    def loss(self, task: str, outputs: Tensor) -> Tensor:
        return self.model.head(task).loss(outputs, self.batches[task].labels)

    def plain(self, task: str) -> Tensor:
        return self.loss(task, self.forward(task))

    def joint(self, task: str) -> Tensor:
        """Returns the loss of SMART's paper, whose graph holds two forwards."""
        x, masks = self.model.embed(task, self.batches[task])
        smart = SMART(divergence=self.model.head(task).divergence)
        outputs, penalty = smart.penalize(partial(self.model.outputs, task, masks=masks), x, mask=masks)
        return self.loss(task, outputs) + WEIGHT * penalty

    def low_memory(self, task: str, *, detach_clean: bool = False) -> None:
        """Adds the gradients of the same loss."""
        x, masks = self.model.embed(task, self.batches[task])
        smart = SMART(divergence=self.model.head(task).divergence, detach_clean=detach_clean)
        forward, loss = partial(self.model.outputs, task, masks=masks), partial(self.loss, task)
        smart.backward(forward, x, loss, weight=WEIGHT, mask=masks)

    def library(self, task: str) -> Tensor:
        """Returns the loss that smart-pytorch's README makes, its divergence a mean over the batch."""
        from smart_pytorch import SMARTLoss, kl_loss, sym_kl_loss

        x, masks = self.model.embed(task, self.batches[task])
        forward = partial(self.model.outputs, task, masks=masks)
        last = partial(sym_kl_loss, reduction="batchmean")
        outputs = forward(x)
        penalty = SMARTLoss(forward, kl_loss, last)(x, outputs)
        return self.loss(task, outputs) + WEIGHT * penalty


def measured(
    work: Work, steps: Mapping[str, Callable[[], object]], forward: Callable[[], object], rounds: int
) -> dict[str, dict[str, Any]]:
    """Returns, for each step, its activations, peak and curve of memory; with rounds, FLOPs and times.

    Args:
        work: The model, whose gradients are dropped before each step.
        steps: What is measured, by name.
        forward: One forward, with its graph: the unit of FLOPs and times.
        rounds: Of timing; 0 for memory alone.
    """

    def prepared(step: Callable[[], object]) -> Callable[[], object]:
        work.model.zero_grad()
        return step

    steps = {FORWARD: forward, **steps}
    rows: dict[str, dict[str, Any]] = {name: {} for name in steps}
    if rounds:
        entries = {name: partial(prepared, step) for name, step in steps.items()}
        rows = measure.in_rounds(entries, reference=FORWARD, device=torch.device("cpu"), rounds=rounds)
    counted: dict[str, int] = {}
    for name, step in steps.items():
        if "error" in rows[name]:
            continue
        activations = measure.Activations(work.model)
        with activations:
            curve = measure.alive_over_time(prepared(step))
        rows[name] |= {
            "activations": activations.peak,
            "peak": max(alive for _, alive in curve),
            "curve": measure.thinned(curve, 150),
        }
        if rounds:  # in a pass of its own, since it makes torch allocate otherwise
            with FlopCounterMode(display=False) as flops:
                prepared(step)()
            counted[name] = flops.get_total_flops()
            rows[name]["forwards"] = counted[name] / counted[FORWARD]
    work.model.zero_grad()
    return rows


def one_task(work: Work, rounds: int) -> dict[str, dict[str, Any]]:
    """Returns what a step of the sentiment task costs, the optimizer left out."""
    steps: dict[str, Callable[[], object]] = {
        ALONE: lambda: work.plain("sst").backward(),
        "penalize, then one backward": lambda: work.joint("sst").backward(),
        "SMART.backward": lambda: work.low_memory("sst"),
        "SMART.backward, detach_clean=True": lambda: work.low_memory("sst", detach_clean=True),
        "smart-pytorch": lambda: work.library("sst").backward(),
    }
    rows = measured(work, steps, lambda: work.forward("sst"), rounds)
    return {name: {key: v for key, v in row.items() if key != "curve"} for name, row in rows.items()}


def three_tasks(work: Work, rounds: int) -> dict[str, dict[str, Any]]:
    """Returns what a step of SMART + GSE with AdamW costs in each form, beside what it cannot do without."""
    adam = torch.optim.AdamW(work.model.parameters(), lr=1e-6)
    for parameter in work.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    adam.step()  # makes the moments, which are there before a step

    def step(one: Callable[[str], Tensor | None], *, tensors: bool = False) -> Callable[[], None]:
        optimizer = GSE(adam, second_update="reuse" if tensors else "recompute")

        def run() -> None:
            optimizer.zero_grad()
            optimizer.backward({t: one(t) if tensors else partial(one, t) for t in TASKS})
            optimizer.step()

        return run

    steps: dict[str, Callable[[], object]] = {
        LARGEST: lambda: work.plain("sts").backward(),
        WITHOUT: step(work.plain),
        "losses, penalize": step(work.joint, tensors=True),
        "callables, penalize": step(work.joint),
        "callables, SMART.backward": step(work.low_memory),
    }
    return measured(work, steps, lambda: [work.forward(task) for task in TASKS], rounds)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smart", description=__doc__)
    parser.add_argument("--rows", type=int, default=8, help="in a task's batch")
    parser.add_argument("--tokens", type=int, default=64, help="a row")
    parser.add_argument("--layers", type=int, help="instead of each model's own")
    parser.add_argument("--rounds", type=int, default=4, help="of timing, of the first model")
    parser.add_argument(
        "--models", default="minilm,bert-base", help="of the first, all; of others, the memory of three tasks"
    )
    parser.add_argument("--output", type=Path, default=measure.RESULTS, help="a folder")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found: dict[str, Any] = {"batch": {"rows": options.rows, "tokens": options.tokens}, "models": {}}
    for index, name in enumerate(options.models.split(",")):
        config = BertConfig(
            **vars(MODELS[name]) | ({"num_hidden_layers": options.layers} if options.layers else {})
        )
        work, rounds = Work(config, options.rows, options.tokens), 0 if index else options.rounds
        found["models"][name] = {
            "layers": config.num_hidden_layers,
            "width": config.hidden_size,
            "gradient": 4 * sum(p.numel() for p in work.model.parameters()),
            "one task": one_task(work, rounds) if rounds else {},
            "three tasks": three_tasks(work, rounds),
        }
    found["measured_with"] = measure.facts("smartreg", "gradsurgery", "smart-pytorch")
    write_atomically(options.output / "smart.json", json.dumps(found, indent=2) + "\n")
    for name, model in found["models"].items():
        for part in ("one task", "three tasks"):
            for step, row in model[part].items():
                shown = row.get("error") or f"{row['activations'] / 1e6:9.1f} {row['peak'] / 1e6:9.1f} MB"
                print(f"{name:10s} {part:12s} {step:36s}{shown}")


if __name__ == "__main__":
    main()
