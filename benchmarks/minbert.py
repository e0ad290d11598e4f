"""An iteration of minBERT's encoder beside one of transformers' BertModel, in the usual loop."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from minbert_multitask.bert import BertModel
from minbert_multitask.files import write_atomically
from torch import nn

from . import measure
from .end_to_end import MINILM


def iteration(encoder: nn.Module, tasks: int, rows: int, tokens: int) -> Callable[[], None]:
    """Returns one iteration: a forward and a backward of each task's batch, and one update with the sum."""
    torch.manual_seed(0)
    heads = nn.ModuleList(nn.Linear(MINILM.hidden_size, 5) for _ in range(tasks))
    ids = torch.randint(1, MINILM.vocab_size, (tasks, rows, tokens))
    mask = (torch.arange(tokens) < torch.randint(tokens // 4, tokens + 1, (tasks, rows, 1))).long()
    mask[:, 0] = 1  # a batch is as long as its longest row
    labels = torch.randint(5, (tasks, rows))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], lr=1e-6)

    def run() -> None:
        optimizer.zero_grad()
        for k, head in enumerate(heads):
            hidden = encoder(input_ids=ids[k], attention_mask=mask[k]).last_hidden_state[:, 0]
            F.cross_entropy(head(hidden), labels[k]).backward()
        optimizer.step()

    return run


def main(arguments: Sequence[str] | None = None) -> None:
    import transformers

    parser = argparse.ArgumentParser(prog="python -m benchmarks.minbert", description=__doc__)
    parser.add_argument("--tasks", type=int, default=3)
    parser.add_argument("--rows", type=int, default=8, help="in a task's batch")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--output", type=Path, default=measure.RESULTS, help="a folder")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sizes = options.tasks, options.rows, options.tokens
    packed = BertModel(MINILM).train()
    packed.packed = True
    models = {
        "minbert": BertModel(MINILM).train(),
        "minbert, packed": packed,
        "transformers": transformers.BertModel(transformers.BertConfig(**vars(MINILM))).train(),
    }
    runs = {name: iteration(model, *sizes) for name, model in models.items()}
    times = measure.in_rounds(
        {name: (lambda run=run: run) for name, run in runs.items()},
        reference="transformers",
        device=torch.device("cpu"),
        rounds=options.rounds,
    )
    found = {
        "batch": dict(zip(("tasks", "rows", "tokens"), sizes, strict=True)),
        "attention": models["transformers"].config._attn_implementation,
        "rows": times,
        "measured_with": measure.facts("transformers"),
    }
    write_atomically(options.output / "minbert.json", json.dumps(found, indent=2) + "\n")
    for name, row in times.items():
        print(f"{name:18s}{row['cpu_ms']['median']:10.1f} ms {row['ratio']['median']:8.3f}")


if __name__ == "__main__":
    main()
