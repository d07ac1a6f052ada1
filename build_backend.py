"""Setuptools' build backend, with torch as a build requirement only if none is installed.

The build needs torch's headers and libraries but does not import it. pip's isolated build finds the
torch of the target environment through sysconfig, so it never downloads a second one.
"""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403


def find_torch() -> Path | None:
    """Find the folder of the torch package in this environment or in the target environment."""
    spec = importlib.util.find_spec("torch")
    folders = list(spec.submodule_search_locations or []) if spec else []
    folders += [f"{sysconfig.get_path(key)}/torch" for key in ("purelib", "platlib")]
    return next((Path(folder) for folder in folders if Path(folder, "version.py").exists()), None)


def torch_requirement() -> list[str]:
    return [] if find_torch() else ["torch>=2.10"]


def get_requires_for_build_wheel(config_settings=None) -> list[str]:
    return build_meta.get_requires_for_build_wheel(config_settings) + torch_requirement()


def get_requires_for_build_editable(config_settings=None) -> list[str]:
    return build_meta.get_requires_for_build_editable(config_settings) + torch_requirement()
