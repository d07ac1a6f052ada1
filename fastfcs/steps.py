"""How far a stylizer has come with a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from .images import AnyImage, image_to_tensor
from .network import ForwardMaps
from .stylizer import Stylizer
from .vgg import VGG19

_FILES = 2  # updates that reading and writing a picture are worth


@contextmanager
def follow(stylizer: Stylizer, advance: Callable[[float], None]) -> Iterator[None]:
    """Report the progress of one picture, in proportion to the pixels whose features are computed.

    Args:
        stylizer: restyles one picture in the block. Its network has hooks meanwhile, so no other
            thread may use it.
        advance: is called before every update, and for every tile, with the fraction of the work
            that has become part of it; the fractions add up to 1 at the end of the block. What it
            raises ends the work.

    Yields:
        Nothing; the block reads, restyles and writes the picture.

    Examples:
        >>> import torch
        >>> from fastfcs import Stylizer
        >>> from fastfcs.steps import follow
        >>> stylizer, parts = Stylizer(torch.rand(3, 24, 32), weights="tiny"), []
        >>> with follow(stylizer, parts.append):
        ...     _ = stylizer(torch.rand(3, 24, 32))
        >>> len(parts), round(sum(parts), 6)
        (5, 1.0)
    """
    left, work = 1.0, 1.0  # work is in pixels

    def begin(_: object, content: tuple[AnyImage, ...]) -> None:
        nonlocal work
        height, width = image_to_tensor("content", content[0]).samples.shape[-2:]
        work = stylizer.work(height, width) + _FILES * height * width

    def count(_: object, image: tuple[Tensor, ...]) -> None:
        nonlocal left
        part = min(image[0].shape[-2] * image[0].shape[-1] / work, left)
        left -= part
        advance(part)

    # Every update, and every pass over a tile, begins with the forward maps of the network, or the
    # refinement's first rectifier.
    modules = list(stylizer.modules())
    first = [m for m in modules if isinstance(m, ForwardMaps)] + [
        next(layer for layer in vgg.modules() if isinstance(layer, nn.ReLU))
        for vgg in modules
        if isinstance(vgg, VGG19)
    ]
    hooks = [module.register_forward_pre_hook(count) for module in first]
    hooks.append(stylizer.register_forward_pre_hook(begin))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        advance(left)
