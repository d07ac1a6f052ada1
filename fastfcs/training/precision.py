"""In what precision training runs."""

from typing import Literal, TypeAlias

import torch

Precision: TypeAlias = Literal["float32", "bfloat16"]


def convolutions_in(precision: Precision, device: str) -> torch.autocast:
    """A context in which convolutions run so; losses and parameters stay float32."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16")
