"""Many pictures on one machine or a cluster, by Ray Data.

`find_jobs` lists them, `unfinished` tells which are left, `connected` starts Ray or joins a
cluster, and `restyle` does the work. The package needs Ray, pyarrow and fsspec: the extra
``batch``.
"""

import os
from pathlib import Path

# Read by Ray when it is imported.
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anyone
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # Ray's own messages would be on standard output
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}.items():
    os.environ.setdefault(_name, _value)
# `ray start --head` asks for this token, but other commands send it only if they are told to.
if Path("~/.ray/auth_token").expanduser().exists():
    os.environ.setdefault("RAY_AUTH_MODE", "token")

# Workers are many processes, and each imports torch.
from ..start import import_torch  # noqa: E402

import_torch()

from .cluster import Workers, choose_workers, connected  # noqa: E402
from .jobs import Columns, Job, find_jobs  # noqa: E402
from .manifest import Manifest, Row  # noqa: E402
from .run import restyle, unfinished  # noqa: E402
from .work import Recipe  # noqa: E402

__all__ = [
    "Columns",
    "Job",
    "Manifest",
    "Recipe",
    "Row",
    "Workers",
    "choose_workers",
    "connected",
    "find_jobs",
    "restyle",
    "unfinished",
]
