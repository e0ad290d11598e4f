"""The state of random generators, so that a forward can be replayed with the same dropout."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RNGState:
    """States of the default generators of the CPU and of every CUDA device, and of one other if wanted.

    Attributes:
        cpu: The CPU generator's state.
        cuda: The CUDA generators' states by device index; empty where CUDA was not in use.
        other: A generator of the caller's own, and its state.
    """

    cpu: Tensor
    cuda: tuple[Tensor, ...]
    other: tuple[torch.Generator, Tensor] | None = None

    @classmethod
    def capture(cls, generator: torch.Generator | None = None) -> "RNGState":
        """Returns the present state; take it right before the forward that is to be replayed."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        other = None if generator is None else (generator, generator.get_state())
        return cls(torch.get_rng_state(), tuple(cuda), other)

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
        if self.other is not None:
            generator, state = self.other
            generator.set_state(state)

    def is_present(self) -> bool:
        """Returns whether nothing has been drawn from the default generators since."""
        now = RNGState.capture()
        pairs = zip((self.cpu, *self.cuda), (now.cpu, *now.cuda), strict=False)
        return len(self.cuda) == len(now.cuda) and all(torch.equal(a, b) for a, b in pairs)

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Runs the block from this state, and the code after it from where the code before it had come."""
        after = RNGState.capture(None if self.other is None else self.other[0])
        self.restore()
        try:
            yield
        finally:
            after.restore()


def replaying(rng: RNGState | None) -> AbstractContextManager[None]:
    """Returns the context of :meth:`RNGState.replay`, and where there is no state one that does nothing."""
    return nullcontext() if rng is None else rng.replay()
