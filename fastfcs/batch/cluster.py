"""Ray: started for one run, or the cluster that is already there."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray

MEMORY = 1_500_000_000
"""Bytes of main memory that a worker is counted with (docs/cluster.md)."""

_OBJECTS = 2_000_000_000  # bytes of the object store of a Ray of our own, at most
_PATIENCE = 10  # seconds until a cluster that does not answer is given up
_SHARE = 0.5  # of the free memory for objects
_WAITING = 0.5  # cores of an actor that waits for its GPU


@dataclass(frozen=True)
class Workers:
    """The actors of a run.

    Attributes:
        count: their number.
        cores: CPU cores that each uses.
        on_gpu: whether each has a GPU.
        beside: cores per actor that decode and encode.

    Examples:
        >>> from fastfcs.batch.cluster import Workers
        >>> Workers(2, 1, False).resources
        {'num_cpus': 0.8, 'num_gpus': 0, 'memory': 1500000000}
    """

    count: int
    cores: int
    on_gpu: bool
    beside: float = 0.2

    @property
    def resources(self) -> dict[str, float]:
        """What each takes, for Ray."""
        cpus = _WAITING if self.on_gpu else round(self.cores - self.beside, 3)
        return {"num_cpus": cpus, "num_gpus": int(self.on_gpu), "memory": MEMORY}

    @property
    def resources_beside(self) -> dict[str, float]:
        """What each task that decodes or encodes takes; two or more per actor have room."""
        return {"num_cpus": min(1.0, round(self.beside / 2, 3))}


# Otherwise Ray ends processes that have been idle for a second, and starts new ones, each of which
# imports torch.
_LASTING = {
    "num_workers_soft_limit": 1000,
    "idle_worker_killing_time_threshold_ms": 3_600_000,
    "prestart_worker_first_driver": False,
}


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine and stop it at the end.

    Args:
        address: of the cluster's head ("auto", or host:port), or None.

    Yields:
        Nothing; the block uses Ray.

    Raises:
        ConnectionError: there is no such cluster.

    Examples:
        >>> from fastfcs.batch.cluster import connected
        >>> with connected("127.0.0.1:1"):  # doctest: +SKIP
        ...     pass
        Traceback (most recent call last):
        ConnectionError: address must be that of a Ray cluster, got 127.0.0.1:1
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is not None:
        try:
            _reach(address)
            with _silence():
                ray.init(address, **quiet)
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise ConnectionError(
                f"address must be that of a Ray cluster, got {address} ({reason})"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()
        return
    with TemporaryDirectory(
        prefix="fastfcs-",
        dir="/tmp",  # sockets need a short path
        ignore_cleanup_errors=True,
    ) as folder:
        if "RAY_AUTH_MODE" not in os.environ:
            # Ray would save a token of its own, for all clusters that are started later.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        with _silence():
            ray.init(
                "local",
                num_cpus=_cores(),
                object_store_memory=_objects(),
                include_dashboard=False,
                _temp_dir=folder,
                _system_config=_LASTING,
                **quiet,
            )
        try:
            yield
        finally:
            ray.shutdown()


def _cores() -> int:
    """The cores that this process may use, also within the limit of a container."""
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # no container, or "max": no limit
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text().split())
        cores = min(cores, max(1, quota // period))
    return cores


def _reach(address: str) -> None:
    """Raise at once if nobody listens there; Ray would try for many minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), _PATIENCE).close()


@contextmanager
def _silence() -> Iterator[None]:
    """Keep Ray from announcing its log level on standard error; what it raises is not affected."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _objects() -> int:
    """Bytes for the object store: it lies in /dev/shm, which containers may keep small."""
    free = [_OBJECTS]
    if os.path.isdir("/dev/shm"):
        free.append(int(_SHARE * shutil.disk_usage("/dev/shm").free))
    return max(min(free), 100_000_000)


def choose_workers(count: int | None, cores: int | None, device: str | None) -> Workers:
    """Choose the actors: one per GPU of the cluster, or one per group of CPU cores.

    Args:
        count: their number; None is as many as fit into what is there.
        cores: CPU cores of each; by default 1.
        device: "cpu" leaves GPUs alone, "cuda" needs them, None takes them if there are any.

    Returns:
        The actors.

    Raises:
        ValueError: the cluster has no GPU, or not enough cores or memory for a single actor.

    Examples:
        >>> from fastfcs.batch.cluster import choose_workers, connected
        >>> with connected(None):  # doctest: +SKIP
        ...     choose_workers(None, 1, "cpu").on_gpu
        False
    """
    cores = cores or 1
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    with_gpu = [node for node in nodes if node.get("GPU", 0)]
    gpus = int(sum(node["GPU"] for node in with_gpu))
    if device == "cuda" and not gpus and count is None:
        raise ValueError("device must be cpu where Ray finds no GPU, got cuda")
    if device == "cuda" or (gpus and device != "cpu"):
        # Nodes that are still to come are taken for large ones.
        cpus = min((node.get("CPU", 0) / node["GPU"] for node in with_gpu), default=4.0)
        if cpus <= _WAITING:
            raise ValueError(f"nodes must have a core per GPU at least, got {cpus:g}")
        return Workers(count or gpus, cores, True, cpus - _WAITING)
    fitting = sum(
        min(int(node.get("CPU", 0)) // cores, int(node.get("memory", 0) // MEMORY))
        for node in nodes
    )
    if not fitting:
        raise ValueError(
            f"cores must be at most what a node has, and {MEMORY / 1e9:.1f} GB of memory must be "
            f"free, got {cores}"
        )
    return Workers(count or fitting, cores, False)
