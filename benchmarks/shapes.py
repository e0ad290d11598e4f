"""The shapes of well-known models' parameters: what surgery costs depends on nothing else of them."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Shape = tuple[int, ...]


def encoder(layers: int, width: int, words: int = 30522, positions: int = 512) -> list[Shape]:
    """Returns the shapes of a BERT of this size, pooler included."""
    inner = 4 * width
    shapes: list[Shape] = [(words, width), (positions, width), (2, width), (width,), (width,)]
    for _ in range(layers):
        shapes += [(width, width), (width,)] * 4 + [(width,)] * 2  # attention and its layer norm
        shapes += [(inner, width), (inner,), (width, inner), (width,), (width,), (width,)]
    return [*shapes, (width, width), (width,)]


def mlp(layers: int = 10, width: int = 64) -> list[Shape]:
    """Returns the shapes of linear layers, 2 a layer."""
    return [(width, width), (width,)] * layers


def resnet50(classes: int = 1000) -> list[Shape]:
    """Returns the shapes of a ResNet of 50 layers: bottlenecks of 1x1, 3x3 and 1x1 convolutions."""

    def convolution(width: int, channels: int, size: int) -> list[Shape]:
        return [(width, channels, size, size), (width,), (width,)]  # and its batch norm

    shapes, channels = convolution(64, 3, 7), 64
    for width, blocks in [(64, 3), (128, 4), (256, 6), (512, 3)]:
        for block in range(blocks):
            shapes += convolution(width, channels, 1) + convolution(width, width, 3)
            shapes += convolution(4 * width, width, 1)
            if block == 0:
                shapes += convolution(4 * width, channels, 1)
            channels = 4 * width
    return [*shapes, (classes, channels), (classes,)]


def even(size: int) -> list[Shape]:
    """Returns the shapes of about ``size`` parameters in matrices as wide as BERT's."""
    return [(768, 768)] * max(1, round(size / 768**2))


MODELS: dict[str, Callable[[], list[Shape]]] = {
    "minilm": lambda: encoder(6, 384),
    "bert-base": lambda: encoder(12, 768),
    "mlp": mlp,
    "resnet50": resnet50,
}


def rows(shapes: list[Shape], tasks: int, device: torch.device) -> Iterator[list[Tensor]]:
    """Yields T task gradients for which the order of PCGrad's projections does not matter.

    Tasks 0 and 1 conflict, as 2 and 3, 4 and 5 do; all else agree. So one result is right, and every peer's
    can be compared with it, though each draws an order of its own.
    """
    for task in range(tasks):
        row = []
        for index, shape in enumerate(shapes):
            common = torch.Generator(device).manual_seed(index)
            pair = torch.Generator(device).manual_seed(10**6 * (1 + task // 2) + index)
            own = torch.randn(shape, device=device, generator=pair).mul_((-1) ** task)
            row.append(own.add_(torch.randn(shape, device=device, generator=common), alpha=0.5))
        yield row
