"""In what precision training runs."""

from typing import Literal, TypeAlias

import torch

Precision: TypeAlias = Literal["float32", "bfloat16"]


def convolutions_in(precision: Precision, device: str) -> torch.autocast:
    """A context in which convolutions run so; losses and parameters stay float32."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16")


def layout(precision: Precision) -> torch.memory_format:
    """How convolutions of that precision like their images and weights: by pixels in half types."""
    return torch.channels_last if precision == "bfloat16" else torch.contiguous_format
