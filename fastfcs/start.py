"""A quick start of the commands that take seconds, of which torch's import is half."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from types import ModuleType
from typing import Any

# Registers a thousand operators for tensors without data, in 0.4 s. Only tracing needs them.
_REGISTRATIONS = "torch._meta_registrations"


class _Postponed(ModuleType):
    """A module that is imported when one of its attributes is first asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # inspect looks for __file__
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def import_torch() -> None:
    """Import torch a third faster.

    Garbage is not looked for, because importing makes none, and what serves compilers alone is left
    out until something asks for it. A command that compiles nothing calls this before it imports
    anything else that imports torch.

    Examples:
        >>> from fastfcs.start import import_torch
        >>> import_torch()
        >>> import torch
        >>> torch.rand(2).shape
        torch.Size([2])
    """
    if "torch" in sys.modules:
        return
    # oneDNN keeps a thousand convolutions by default, which take 60 MB more than these do.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")
    gc.disable()
    postponed = sys.modules[_REGISTRATIONS] = _Postponed(_REGISTRATIONS)
    import torch

    torch.__dict__.setdefault(_REGISTRATIONS.rpartition(".")[2], postponed)
    gc.enable()
