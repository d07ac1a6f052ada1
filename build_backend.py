"""Setuptools' build backend; it asks for torch only where the target environment has none.

The operators need torch's headers and libraries, not `import torch`. pip's isolated build sees
the target environment through sysconfig, so a second torch is never downloaded for the build.
"""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403


def find_torch() -> Path | None:
    """The folder of the torch package of this environment or of the one that is built for."""
    spec = importlib.util.find_spec("torch")
    found = list(spec.submodule_search_locations or []) if spec else []
    found += [f"{sysconfig.get_path(key)}/torch" for key in ("purelib", "platlib")]
    return next((Path(folder) for folder in found if Path(folder, "version.py").exists()), None)


def torch_requirement() -> list[str]:
    return [] if find_torch() else ["torch>=2.10"]


def get_requires_for_build_wheel(config_settings=None) -> list[str]:
    return build_meta.get_requires_for_build_wheel(config_settings) + torch_requirement()


def get_requires_for_build_editable(config_settings=None) -> list[str]:
    return build_meta.get_requires_for_build_editable(config_settings) + torch_requirement()
