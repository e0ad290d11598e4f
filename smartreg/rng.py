"""The state of torch's default random generators, so that a forward can be replayed with the same dropout."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RNGState:
    """States of the default generators of the CPU and of every CUDA device.

    Attributes:
        cpu: The CPU generator's state.
        cuda: The CUDA generators' states by device index; empty where CUDA was not in use.
    """

    cpu: Tensor
    cuda: tuple[Tensor, ...]

    @classmethod
    def capture(cls) -> "RNGState":
        """Returns the present state; take it right before the forward that is to be replayed."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        return cls(torch.get_rng_state(), tuple(cuda))

    @staticmethod
    def check_device(device: torch.device) -> None:
        """Refuses a device whose generator is not part of the state.

        Raises:
            ValueError: If the device is neither the CPU nor a CUDA device.
        """
        if device.type not in {"cpu", "cuda"}:
            raise ValueError(
                f"embeddings must be on the CPU or a CUDA device for a forward to be replayed, got {device}:"
                " take dropout='independent' and penalize()"
            )

    def restore(self) -> None:
        """Puts every generator back to this state."""
        torch.set_rng_state(self.cpu)
        for index, state in enumerate(self.cuda):
            torch.cuda.set_rng_state(state, index)

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Runs the block from this state, and the code after it from where the code before it had come."""
        after = RNGState.capture()
        self.restore()
        try:
            yield
        finally:
            after.restore()
