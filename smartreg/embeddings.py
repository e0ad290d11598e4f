"""Turns any module into a function of the output of one of its embeddings."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .forward import Forward
from .graphless import graphless
from .inputs import Embeddings
from .parallel import no_sync
from .rng import RNGState


class EmbeddingFunction:
    """A model as a function of what one of its modules, the embedding, returns.

    A forward hook adds ``x̃ - x`` to the embedding's output at each of its calls, x being that output. The
    model's code stays as it is, and since the sum keeps the embedding in the graph its parameters get their
    gradients from every forward. Outside the functions made by :meth:`bind` the hook does nothing.

    Make it before the model is compiled or first called in compiled form, or torch.compile may ignore it.
    Keep the embedding itself out of activation checkpointing, which would run it anew in the backward with
    no perturbation to add.

    Args:
        model: What is called: the model, or its data-parallel or compiled wrapper.
        embedding: The module of ``model`` whose output, one tensor ``(B, ..., D)``, is perturbed.
        calls: How often one forward of the model calls it: 2 for a siamese model.

    Raises:
        ValueError: If ``embedding`` is no part of ``model``, or ``calls`` is not positive.
    """

    def __init__(self, model: nn.Module, embedding: nn.Module, *, calls: int = 1) -> None:
        if not any(module is embedding for module in model.modules()):
            raise ValueError(
                f"embedding must be a module of model, got a {type(embedding).__name__} that is none: pass"
                " one such as model.get_submodule(name)"
            )
        if calls < 1:
            raise ValueError(f"calls must be positive, got {calls!r}: take 1, or 2 for a siamese model")
        self.model = model
        self.calls = calls
        self._seen: list[Tensor] | None = None
        self._deltas: Sequence[Tensor] | None = None
        self._index = 0
        self._handle = embedding.register_forward_hook(self._hook)

    def bind(self, *args: Any, **kwargs: Any) -> "tuple[BoundFunction, Embeddings]":
        """Returns the function of the embeddings for these arguments of the model, and the embeddings x.

        It runs the model up to the embedding's last call, without a graph, and leaves the random state and
        the buffers as they were.

        Raises:
            TypeError: If the embedding's output is not one tensor.
            RuntimeError: If the model does not call the embedding, or less than ``calls`` times.
        """
        self._seen = []
        before = RNGState.capture()
        try:
            with graphless(), no_sync(self.model):
                Forward(self.model).again(*args, **kwargs)
        except _Seen:
            pass
        finally:
            before.restore()
            seen, self._seen = self._seen, None
        self._expect(len(seen))
        return BoundFunction(self, args, kwargs, tuple(seen)), seen[0] if self.calls == 1 else tuple(seen)

    def remove(self) -> None:
        """Takes the hook off the embedding."""
        self._handle.remove()

    def _run(self, args: Sequence[Any], kwargs: Mapping[str, Any], deltas: Sequence[Tensor]) -> Any:
        self._deltas, self._index = deltas, 0
        try:
            outputs = self.model(*args, **kwargs)
        finally:
            self._deltas = None
        self._expect(self._index)
        return outputs

    def _expect(self, calls: int) -> None:
        if calls != self.calls:
            remedy = (
                f"take calls={calls}"
                if calls > self.calls
                else "choose a module that the forward calls, and make the EmbeddingFunction before the"
                " model's first compiled call"
            )
            raise RuntimeError(
                f"the embedding must run {self.calls} times in a forward, it ran {calls} times: {remedy}"
            )

    def _hook(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._seen is None and self._deltas is None:
            return None
        if not isinstance(output, Tensor):
            raise TypeError(
                f"embedding must return a tensor, got {type(output).__name__} from {type(module).__name__}:"
                " choose the module whose output it is"
            )
        if self._seen is not None:
            self._seen.append(output)
            if len(self._seen) == self.calls:
                raise _Seen
            return None
        assert self._deltas is not None
        index, self._index = self._index, self._index + 1
        return output + self._deltas[index] if index < self.calls else None


@dataclass(frozen=True)
class BoundFunction:
    """A model as a function of its embeddings alone; made by :meth:`EmbeddingFunction.bind`."""

    function: EmbeddingFunction
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    embeddings: Sequence[Tensor]

    def __call__(self, embeddings: Embeddings) -> Any:
        """Returns what the model returns at these embeddings, of the structure that ``bind`` returned."""
        given = (embeddings,) if isinstance(embeddings, Tensor) else embeddings
        deltas = [moved - x for moved, x in zip(given, self.embeddings, strict=True)]
        return self.function._run(self.args, self.kwargs, deltas)

    def modules(self) -> Iterator[nn.Module]:
        """Yields the model's modules, whose buffers the penalty is to leave alone."""
        return self.function.model.modules()

    def no_sync(self) -> AbstractContextManager[object]:
        """Returns the context in which the model exchanges no gradients with other ranks."""
        return no_sync(self.function.model)


class _Seen(Exception):  # noqa: N818
    """Ends a forward whose rest is not needed."""
