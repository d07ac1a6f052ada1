"""The pipeline: decode, restyle, write, as a stream of Ray Data."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy

from . import store
from .cluster import Workers
from .jobs import Job
from .manifest import Manifest, Row
from .work import Item, Recipe, Restyler, as_table, collect, decode, items_of, write

RETRIES = 2
"""How often a picture is tried again by default after its worker has died or a store has failed."""

_BLOCK = 4 << 20  # bytes of decoded pictures that travel together, if they are small
_FED = 4  # actors on CPUs per task that decodes, and per task that encodes
_ALONE = 1000  # pictures that are tried again one by one, at most
_JOBS = 64  # per decoding task, at most
_TOGETHER = 8  # pictures that a GPU gets at once
_PART = 64  # results per Parquet file
_MERGED = 1000  # rows per merged shard of the manifest


def unfinished(
    jobs: Sequence[Job], output: str, recipe: Recipe, *, overwrite: bool, skip_existing: bool
) -> tuple[list[Job], dict[str, Row]]:
    """Begin an output, or find out what is missing in it.

    Args:
        jobs: all of them.
        output: a folder; or a folder of Parquet files, whose name ends in .parquet.
        recipe: how they are restyled.
        overwrite: whether results that exist are replaced.
        skip_existing: whether results that exist, and are not of this command, are left out.

    Returns:
        What is to be done, and the rows of what is done, by output.

    Raises:
        ValueError: results exist that are not of this command, or it had other settings.
        StoreError: the output cannot be read or written.

    Examples:
        >>> import torch
        >>> from fastfcs import Stylizer
        >>> from fastfcs.batch.jobs import Job
        >>> from fastfcs.batch.run import unfinished
        >>> from fastfcs.batch.work import Recipe
        >>> recipe = Recipe(Stylizer(torch.rand(3, 24, 32), weights="tiny"))
        >>> jobs = [Job("in/a.jpg", "a.jpg", "in/a.jpg")]
        >>> options = {"overwrite": False, "skip_existing": False}
        >>> unfinished(jobs, "memory://begun", recipe, **options)[0] == jobs
        True
    """
    manifest = Manifest(output)
    if not (overwrite or manifest.is_begun):
        existing = set(store.names(output))
        if manifest.holds_results and existing:
            raise ValueError(f"{output} exists already; --force overwrites")
        taken = [job for job in jobs if job.output in existing]
        if taken and not skip_existing:
            more = f", and so do {len(taken) - 1} more" if len(taken) > 1 else ""
            where = store.join(output, taken[0].output)
            raise ValueError(f"{where} exists already{more}; --force overwrites")
        if taken:  # before anything says that the output is ours
            manifest.add([replace(Item(job).row, status="skipped") for job in taken])
    rows = manifest.begin(_fingerprint(recipe), overwrite)
    failed = {name for name, row in rows.items() if row.status == "failed"}
    for job in jobs:
        row = rows.get(job.output)
        if row is None or job.output in failed:
            continue
        if (row.input, row.style, row.masks) != (job.input, job.style, job.masks):
            raise ValueError(
                f"{store.join(output, job.output)} must be made from {row.input} with the same "
                f"style and masks, got {job.input}; --force begins again"
            )
    return [job for job in jobs if job.output in failed or job.output not in rows], rows


def restyle(
    jobs: Sequence[Job],
    output: str,
    recipe: Recipe,
    workers: Workers,
    earlier: Mapping[str, Row],
    *,
    retries: int = RETRIES,
    report: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Restyle many pictures on the cluster that is connected.

    Args:
        jobs: what `unfinished` returned.
        output: where results are written.
        recipe: how they are restyled.
        workers: the actors.
        earlier: rows of earlier runs, which the manifest keeps.
        retries: how often a picture is tried again after its worker has died or a store has failed.
        report: is told of every picture that is done or has failed.

    Returns:
        A row per job, in their order. They are written to the output's manifest together with those
        of earlier runs.

    Raises:
        StoreError: the manifest cannot be written.
        ray.exceptions.RayError: the cluster has failed.

    Examples:
        >>> import torch
        >>> from fastfcs import Stylizer
        >>> from fastfcs.batch.cluster import Workers
        >>> from fastfcs.batch.run import restyle
        >>> from fastfcs.batch.work import Recipe
        >>> recipe = Recipe(Stylizer(torch.rand(3, 24, 32), weights="tiny"))
        >>> restyle([], "memory://restyled-by-none", recipe, Workers(1, 1, False), {})
        []
    """
    output = store.absolute(output)  # workers have working folders of their own
    manifest, rows = Manifest(output), dict[str, Row]()
    shards: list[Row] = []
    reasons: dict[str, str] = {}
    for attempt in range(1 + retries):
        missing = [job for job in jobs if job.output not in rows]
        if not missing:
            break
        for items in _stream(missing, output, recipe, workers, retries, alone=attempt > 0):
            lost = [item for item in items if item.is_lost]
            reasons |= {item.job.output: item.error or "" for item in lost}
            known = [item.row for item in items if not item.is_lost]
            for row in known:
                rows[row.output] = row
                report(row)
            if not manifest.holds_results:
                shards += known
            if len(shards) >= _MERGED:
                with suppress(store.Unavailable):  # they are merged at the end anyway
                    manifest.merge(shards)
                shards = []
    for job in jobs:
        if job.output not in rows:
            times = "once" if retries == 0 else f"{1 + retries} times"
            died = f"{job.input}: its process has died or failed {times}"
            row = Item(job, error=reasons.get(job.output, died)).row
            rows[job.output] = row
            report(row)
            manifest.add([row])
    new = [rows[job.output] for job in jobs]
    manifest.finish([*(row for name, row in earlier.items() if name not in rows), *new])
    return new


def _stream(
    jobs: Sequence[Job],
    output: str,
    recipe: Recipe,
    workers: Workers,
    retries: int,
    alone: bool,
) -> Iterator[list[Item]]:
    """Restyle pictures once. What a task that has failed was working on is not among the items."""
    alone &= len(jobs) <= _ALONE
    size = 1 if alone else max(1, min(_JOBS, len(jobs) // (4 * workers.count)))
    blocks = [
        as_table([Item(job) for job in jobs[k : k + size]]) for k in range(0, len(jobs), size)
    ]
    beside = workers.resources_beside | {"max_retries": 0 if alone else retries}
    # On CPUs decoding and encoding take a fraction of the time, and each process takes memory.
    tasks = TaskPoolStrategy(None if workers.on_gpu else -(-workers.count // _FED))
    with _settings():
        items: Dataset = ray.data.from_arrow(blocks)
        items = items.map_batches(
            decode,
            batch_size=None,
            batch_format="pyarrow",
            fn_kwargs={"max_size": recipe.max_size},
            compute=tasks,
            **beside,
        )
        items = items.map_batches(
            Restyler,
            fn_constructor_args=(recipe, output, workers.cores),
            batch_size=_TOGETHER if workers.on_gpu and not alone else None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                size=workers.count, max_tasks_in_flight_per_actor=1 if alone else 2
            ),
            max_task_retries=0 if alone else retries,
            **workers.resources,
        )
        fn_kwargs = {"output": output}
        items = items.map_batches(
            write,
            batch_size=None,
            batch_format="pyarrow",
            fn_kwargs=fn_kwargs,
            compute=tasks,
            **beside,
        )
        if Manifest(output).holds_results:
            beside["num_cpus"] /= 2  # otherwise Ray joins it with `write`
            items = items.map_batches(
                collect, batch_size=_PART, batch_format="pyarrow", fn_kwargs=fn_kwargs, **beside
            )
        for table in items.iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        ):
            yield items_of(table)


@contextmanager
def _settings() -> Iterator[None]:
    """Set what Ray Data keeps for the whole process, and set it back."""
    context = DataContext.get_current()
    before = dict(context.__dict__)
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # what a dead worker was working on is tried again
    context.target_max_block_size = _BLOCK
    context.target_min_block_size = 0
    context.actor_init_retry_on_errors = True
    context.max_consecutive_actor_init_deaths = RETRIES
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        context.__dict__.update(before)


def _fingerprint(recipe: Recipe) -> str:
    """Identify what the results depend on."""
    digest = hashlib.sha256()
    for tensor in recipe.stylizer.state_dict().values():
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    if recipe.look is not None:
        digest.update(recipe.look.grid.numpy().tobytes())
    facts = recipe.stylizer.extra_repr(), recipe.max_size, sorted(recipe.video.items())
    digest.update(repr(facts).encode())
    return digest.hexdigest()
