"""Many pictures: what is listed, what the manifest keeps, and whole runs, some of them killed."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
import yaml
from click.testing import CliRunner
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from pyarrow import parquet
from videos import frames, read_video, write_video

from fastfcs import Stylizer, images
from fastfcs.batch import Columns, Job, Manifest, Recipe, Row, find_jobs, store, unfinished
from fastfcs.batch.cluster import MEMORY, Workers, choose_workers
from fastfcs.batch.jobs import VIDEOS
from fastfcs.batch.work import Item, Restyler, as_table, collect, decode, items_of, write
from fastfcs.cli import cli
from fastfcs.cli.batch import batch
from fastfcs.video.container import CONTAINERS


@pytest.fixture(autouse=True)
def empty_memory() -> Iterator[None]:
    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def picture(seed: int, width: int = 40, height: int = 32, format: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, format)
    return stream.getvalue()


NONE = Columns()


def nothing(_: str) -> None:
    raise AssertionError("nothing is ignored")


def found(*inputs: str, columns: Columns = NONE, format: str | None = None) -> list[Job]:
    return find_jobs(inputs, "memory://out", columns, format, nothing)


# What is listed.


def test_videos_are_recognised_without_their_packages() -> None:
    assert set(CONTAINERS) == VIDEOS


def test_a_folder_is_mirrored_without_hidden_files_and_the_output() -> None:
    for name in (
        "a.jpg",
        "b/c.PNG",
        "b/d.cr2",
        "e.mp4",
        ".f.png",
        "g/.h/i.png",
        "j.md",
        "out/k.png",
    ):
        store.write(f"memory://in/{name}", b"")
    notes: list[str] = []
    jobs = find_jobs(["memory://in"], "memory://in/out", Columns(), None, notes.append)
    assert {job.input.removeprefix("memory://in/"): job.output for job in jobs} == {
        "a.jpg": "a.jpg",
        "b/c.PNG": "b/c.PNG",
        "b/d.cr2": "b/d.png",
        "e.mp4": "e.mp4",
    }
    assert notes == ["memory://in: 2 hidden files, 1 other file ignored"]
    assert [job.output for job in jobs if job.is_video] == ["e.mp4"]


def test_a_pattern_keeps_what_follows_its_fixed_part(tmp_path: Path) -> None:
    for name in ("in/a/1.png", "in/b/2.png", "in/b/3.jpg", "in/b/c/4.png"):
        store.write(str(tmp_path / name), b"")
    assert [job.output for job in found(f"{tmp_path}/in/*/*.png")] == ["a/1.png", "b/2.png"]
    deep = found(f"{tmp_path}/in/b/**/*.png")
    assert [job.output for job in deep] == ["2.png", "c/4.png"]
    with pytest.raises(ValueError, match=r"gone\*.png must match pictures or videos, got none"):
        found(f"{tmp_path}/gone*.png")


def test_lists_and_tables_of_paths_are_relative_to_themselves() -> None:
    store.write("memory://lists/a.txt", b"x/1.png\n\nx/y/2.png\nmemory://lists/x/3.bmp\n")
    assert [(job.url, job.output) for job in found("memory://lists/a.txt")] == [
        ("memory://lists/x/1.png", "1.png"),
        ("memory://lists/x/y/2.png", "y/2.png"),
        ("memory://lists/x/3.bmp", "3.png"),
    ]
    lines = "path,painting,name", "001.png,udnie,first.jpg", "002.png,styles/b.jpg,second.jpg"
    store.write("memory://lists/b.csv", "\n".join([*lines, "003.png,,3.png"]).encode())
    jobs = found("memory://lists/b.csv", columns=Columns(name="name", style="painting"))
    assert [(job.url, job.output, job.style) for job in jobs] == [
        ("memory://lists/001.png", "first.jpg", "udnie"),
        ("memory://lists/002.png", "second.jpg", "memory://lists/styles/b.jpg"),
        ("memory://lists/003.png", "3.png", None),
    ]
    assert [job.output for job in found("memory://lists/b.csv", format=".jpg")] == [
        "001.jpg",
        "002.jpg",
        "003.jpg",
    ]


def write_parquet(url: str, table: pa.Table, rows: int) -> None:
    stream = BytesIO()
    parquet.write_table(table, stream, row_group_size=rows)
    store.write(url, stream.getvalue())


@pytest.mark.parametrize("kind", ["bytes", "struct"])
def test_bytes_stay_in_their_parquet_file_until_they_are_decoded(kind: str) -> None:
    pictures = [picture(seed) for seed in range(25)]
    values = pictures if kind == "bytes" else [{"bytes": p, "path": None} for p in pictures]
    table = pa.table({"image": values, "id": [f"n{k}.webp" for k in range(25)]})
    write_parquet("memory://table.parquet", table, 10)
    jobs = found("memory://table.parquet", columns=Columns(name="id"))
    assert [job.input for job in jobs][::24] == [
        "memory://table.parquet#0",
        "memory://table.parquet#24",
    ]
    wanted = [jobs[k] for k in (23, 3, 4, 19)]
    decoded = [items_of(each)[0] for each in decode(as_table([Item(job) for job in wanted]))]
    assert {item.job.output for item in decoded} == {"n23.webp", "n3.webp", "n4.webp", "n19.webp"}
    for item in decoded:
        assert item.picture is not None
        seed = int(item.job.output[1:-5])
        assert torch.equal(item.picture.samples, images.read(BytesIO(pictures[seed])).samples)
    assert [job.output for job in found("memory://table.parquet")][:2] == [
        "table-000000.png",
        "table-000001.png",
    ]


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("a.csv", "name\na.png\n", Columns(), "one of the columns path, url"),
        ("a.csv", "path,url\na,b\n", Columns(), "one of the columns path, url"),
        ("a.csv", "path\na.png\n", Columns(style="mood"), "must have the column mood, got path"),
        ("a.csv", "path,n\n,1\n", Columns(), "a path in every row, got none in row 0"),
        ("a.csv", "path,name\na.png,../b.png\n", Columns(name="name"), "lie in the output folder"),
        ("a.txt", "\n", Columns(), "must list pictures or videos, got none"),
        ("a.txt", "x/a.bmp\nx/a.png\n", Columns(), "would both become memory://out/a.png"),
        ("a.parquet", "nonsense", Columns(), "a.parquet cannot be read: "),
        ("a.csv", "path,m,n\na.png,m.png,\n", Columns(masks=("m", "n")), "two masks or none, got"),
        ("a.txt", "b.png", Columns(style="mood"), "columns must be given with a .csv or"),
    ],
)
def test_wrong_tables_raise_one_sentence(
    name: str, content: str, columns: Columns, message: str
) -> None:
    store.write(f"memory://wrong/{name}", content.encode())
    with pytest.raises((ValueError, OSError), match=message) as error:
        found(f"memory://wrong/{name}", columns=columns)
    assert "\n" not in str(error.value)


def test_brackets_are_no_pattern_where_a_file_is_called_so(tmp_path: Path) -> None:
    store.write(str(tmp_path / "in [1]/a[2].png"), b"")
    assert [job.output for job in found(f"{tmp_path}/in [1]")] == ["a[2].png"]
    assert [job.output for job in found(f"{tmp_path}/in [1]/a[2].png")] == ["a[2].png"]
    for output in (f"{tmp_path}/out [1].parquet", "memory://out [1].parquet"):
        manifest = Manifest(output)
        manifest.begin("settings", overwrite=False)
        manifest.add([row("a.png")], [b"A"])
        manifest.add([row("b.png", "failed")])
        assert set(manifest.read()) == {"a.png", "b.png"}
        manifest.finish(manifest.read().values())
        manifest.begin("settings", overwrite=True)
        assert manifest.read() == {}


def test_the_inputs_cannot_be_the_output(tmp_path: Path) -> None:
    store.write(str(tmp_path / "a.png"), b"")
    with pytest.raises(ValueError, match="output must not be where the inputs are"):
        find_jobs([str(tmp_path)], f"{tmp_path}/", Columns(), None, nothing)


def test_a_folder_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(str(tmp_path / "a/b/c.png"), b"")
    scandir = os.scandir

    def fail(path: str) -> object:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(store.StoreError, match="cannot be read: Permission denied"):
        store.names(str(tmp_path / "a"))


def test_what_does_not_exist_is_named() -> None:
    with pytest.raises(store.StoreError, match=r"memory://gone.png cannot be read: No such file"):
        found("memory://gone.png")


# Stores.


def test_files_appear_complete_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "a" / "b.bin")
    store.write(url, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(store.Unavailable, match=r"b.bin cannot be written: disk full"):
        store.write(url, b"new")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.bin"]
    assert store.read(url) == b"old"


def test_only_errors_that_may_pass_are_worth_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, is_lasting in (
        (PermissionError("no"), True),
        (FileNotFoundError("gone"), True),
        (TimeoutError("slow"), False),
        (RuntimeError("EndpointConnectionError"), False),
    ):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(MemoryFileSystem, "cat_file", fail)
        with pytest.raises(store.StoreError) as raised:
            store.read("memory://a")
        assert isinstance(raised.value, store.Unavailable) is not is_lasting


# The manifest.


def row(name: str, status: str = "done") -> Row:
    error = None if status == "done" else "broken"
    facts = (40, 32), 0.5, "host", status, error, "ab", ("note",)
    return Row(f"in/{name}", name, "udnie", ("a.png", "b.png"), *facts)


@pytest.mark.parametrize("output", ["memory://out", "memory://out.parquet"])
def test_rows_survive_and_results_count_more_than_failures(output: str) -> None:
    manifest = Manifest(output)
    assert manifest.begin("settings", overwrite=False) == {}
    done, failed = [row("a.png"), row("b.png")], [row("c.png", "failed")]
    manifest.add(failed)
    manifest.add(done, [b"A", b"B"] if manifest.holds_results else None)
    if manifest.holds_results:
        [part] = [name for name in store.names(output) if name.startswith("part-")]
        table = parquet.read_table(BytesIO(store.read(store.join(output, part))))
        assert table["image"].to_pylist() == [b"A", b"B"]
    else:
        assert manifest.find(["a.png", "b.png"]) == done
        assert manifest.find(["a.png"]) is None
    manifest.add([row("c.png")], [b"C"] if manifest.holds_results else None)
    again = Manifest(output).begin("settings", overwrite=False)
    assert again == {r.output: r for r in (*done, row("c.png"))}
    manifest.finish(again.values())
    assert Manifest(output).read() == again
    assert parquet.read_table(BytesIO(store.read(manifest.url))).num_rows == 3


def test_merged_shards_say_the_same() -> None:
    manifest = Manifest("memory://out")
    manifest.begin("settings", overwrite=False)
    rows = [row(f"{k}.png") for k in range(5)]
    for each in rows:
        manifest.add([each])
    before = manifest.read()
    manifest.merge(rows)
    assert manifest.read() == before
    assert len(store.names("memory://out/.fastfcs/rows")) == 1


def recipe(**options: object) -> Recipe:
    torch.manual_seed(0)
    return Recipe(Stylizer(torch.rand(3, 96, 96), weights="tiny", **options))  # type: ignore[arg-type]


def test_other_settings_and_foreign_results_are_not_mixed() -> None:
    jobs = [Job("in/a.png", "a.png", "in/a.png"), Job("in/b.png", "b.png", "in/b.png")]
    kept = {"overwrite": False, "skip_existing": False}
    assert unfinished(jobs, "memory://out", recipe(), **kept)[0] == jobs
    assert unfinished(jobs, "memory://out", recipe(), **kept)[0] == jobs
    Manifest("memory://out").add([Row("in/a.png", "a.png", status="done")])
    assert unfinished(jobs, "memory://out", recipe(), **kept)[0] == jobs[1:]
    for other in (
        Job("b/a.png", "a.png", "b/a.png"),
        Job("in/a.png", "a.png", "", style="udnie"),
        Job("in/a.png", "a.png", "", masks=("c.png", "d.png")),
    ):
        with pytest.raises(ValueError, match=r"out/a.png must be made from in/a.png with the same"):
            unfinished([other], "memory://out", recipe(), **kept)
    Manifest("memory://out").add([Row("in/b.png", "b.png", error="in/b.png: broken")])
    mended = Job("c/b.png", "b.png", "c/b.png")
    assert unfinished([mended], "memory://out", recipe(), **kept)[0] == [mended]
    with pytest.raises(ValueError, match=r"memory://out was begun with other settings; --force"):
        unfinished(jobs, "memory://out", recipe(strength=0.5), **kept)
    assert unfinished(
        jobs, "memory://out", recipe(strength=0.5), overwrite=True, skip_existing=False
    )
    store.write("memory://other/a.png", b"mine")
    with pytest.raises(
        ValueError, match=r"memory://other/a.png exists already; --force overwrites"
    ):
        unfinished(jobs, "memory://other", recipe(), **kept)
    left, _ = unfinished(jobs, "memory://other", recipe(), overwrite=False, skip_existing=True)
    assert left == jobs[1:]
    left, rows = unfinished(jobs, "memory://other", recipe(), **kept)  # nor in a second start
    assert left == jobs[1:]
    assert rows["a.png"].status == "skipped"
    assert store.read("memory://other/a.png") == b"mine"


# One picture.


def through(job: Job, how: Recipe, output: str = "memory://out") -> Item:
    [decoded] = decode(as_table([Item(job)]), how.max_size)
    [item] = items_of(write(Restyler(how, output, 1)(decoded), output))
    return item


def test_a_result_is_that_of_the_stylizer_with_its_row() -> None:
    store.write("memory://in/a.png", picture(1))
    item = through(Job("memory://in/a.png", "a.png", "memory://in/a.png"), recipe())
    assert (item.error, item.size, item.picture, item.result) == (None, (40, 32), None, None)
    written = store.read("memory://out/a.png")
    assert item.sha256 == sha256(written).hexdigest()
    with torch.inference_mode():
        expected = recipe().stylizer(images.read(BytesIO(picture(1))))
    stream = BytesIO()
    images.write(expected, stream)
    assert written == stream.getvalue()


@pytest.mark.parametrize("kind", ["grey 16", "RGB 16", "RGBA", "palette"])
def test_every_kind_of_picture_travels(kind: str) -> None:
    rng = np.random.default_rng(0)
    stream = BytesIO()
    if kind == "RGB 16":
        images.write(images.Picture(torch.rand(3, 32, 40), depth=16), stream)
    elif kind == "grey 16":
        Image.fromarray(rng.integers(0, 65536, (32, 40), dtype=np.uint16)).save(stream, "PNG")
    elif kind == "RGBA":
        Image.fromarray(rng.integers(0, 256, (32, 40, 4), dtype=np.uint8)).save(stream, "PNG")
    else:
        Image.fromarray(rng.integers(0, 256, (32, 40), dtype=np.uint8)).convert("P").save(
            stream, "PNG"
        )
    store.write("memory://in/a.png", stream.getvalue())
    item = through(Job("memory://in/a.png", "a.png", "memory://in/a.png"), recipe())
    assert item.error is None
    with torch.inference_mode():
        result = recipe().stylizer(images.read(BytesIO(stream.getvalue())))
    expected = BytesIO()
    images.write(result, expected)
    assert store.read("memory://out/a.png") == expected.getvalue()


def test_a_broken_picture_is_a_row_and_a_repeated_task_writes_nothing() -> None:
    store.write("memory://in/a.png", b"nothing")
    job = Job("memory://in/a.png", "a.png", "memory://in/a.png")
    item = through(job, recipe())
    assert item.row.status == "failed"
    assert item.error is not None
    assert item.error.startswith("memory://in/a.png cannot be read: not a JPEG")
    store.write("memory://in/b.png", picture(2))
    job = Job("memory://in/b.png", "b.png", "memory://in/b.png")
    first = through(job, recipe())
    store.write("memory://out/b.png", b"changed since")
    second = through(job, recipe())
    assert store.read("memory://out/b.png") == b"changed since"
    assert second.row == first.row


def test_a_store_that_fails_leaves_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise TimeoutError("slow")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail)
    job = Job("memory://in/a.png", "a.png", "memory://in/a.png")
    [item] = [items_of(table)[0] for table in decode(as_table([Item(job)]))]
    assert item.is_lost
    written = items_of(write(as_table([item]), "memory://out"))
    assert written[0].is_lost
    assert store.names("memory://out") == []


def test_each_row_may_have_its_own_style_and_masks() -> None:
    store.write("memory://in/a.png", picture(1))
    styles = [f"memory://in/style{k}.png" for k in range(2)]
    for seed, url in enumerate(styles):
        store.write(url, picture(10 + seed, 100, 100))
    mask = np.zeros((32, 40, 3), np.uint8)
    mask[:, 20:, 2] = 255
    stream = BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    store.write("memory://in/mask.png", stream.getvalue())
    stream = BytesIO()
    Image.fromarray(mask).resize((100, 80), Image.Resampling.NEAREST).save(stream, "PNG")
    store.write("memory://in/of_style.png", stream.getvalue())
    store.write("memory://in/wide.png", picture(12, 100, 80))
    masks = "memory://in/mask.png", "memory://in/of_style.png"
    actor = Restyler(recipe(), "memory://out", 1)

    def restyled(style: str | None, masks: tuple[str, str] | None = None) -> torch.Tensor:
        job = Job("a", "a.png", "memory://in/a.png", style=style, masks=masks)
        [table] = decode(as_table([Item(job)]))
        [item] = items_of(actor(table))
        assert item.error is None
        assert item.picture is not None
        return item.picture.samples

    own = restyled(None)
    results = [restyled(style) for style in styles]
    masked = restyled("memory://in/wide.png", masks)
    again = [restyled(styles[1]), restyled(None)]
    with torch.inference_mode():
        content = images.read(BytesIO(picture(1)))
        for style, result in zip(styles, results, strict=True):
            stylizer = Stylizer(images.read(BytesIO(store.read(style))), weights="tiny")
            assert torch.equal(stylizer(content).samples, result)
    assert torch.equal(again[0], results[1])
    assert torch.equal(again[1], own)
    assert not torch.equal(masked, restyled("memory://in/wide.png"))
    job = Job("a", "a.png", "memory://in/a.png", style="memory://in/gone.png")
    [table] = decode(as_table([Item(job)]))
    assert items_of(actor(table))[0].error == (
        "a: memory://in/gone.png cannot be read: No such file or directory"
    )


def test_a_gpu_gets_like_sizes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    how = recipe(constraint="photoreal", refine=False, solve_size=32)
    sizes = (40, 32), (80, 64), (40, 32), (32, 40)
    for k, size in enumerate(sizes):
        store.write(f"memory://in/{k}.png", picture(k, *size))
    jobs = [Job(f"{k}", f"{k}.png", f"memory://in/{k}.png") for k in range(4)]
    tables = list(decode(as_table([Item(job) for job in jobs])))
    actor = Restyler(how, "memory://out", 1)
    alone = [items_of(actor(table))[0] for table in tables]
    counts: list[int] = []
    plain = Stylizer.restyle_alike

    def counted(self: Stylizer, contents: list[images.Picture]) -> list[images.Picture]:
        counts.append(len(contents))
        return plain(self, contents)

    monkeypatch.setattr(Stylizer, "restyle_alike", counted)
    monkeypatch.setattr(Restyler, "_batches", property(lambda self: True))
    together = items_of(actor(pa.concat_tables(tables)))
    assert counts == [3]
    for one, other in zip(alone, together, strict=True):
        assert one.picture is not None
        assert other.picture is not None
        assert (one.size, one.notes) == (other.size, other.notes)
        difference = one.picture.pixels - other.picture.pixels
        assert difference.abs().max() < 1.5 / 255
    # If they cannot be restyled together, for want of memory, each is restyled alone.
    monkeypatch.setattr(Stylizer, "restyle_alike", lambda *_: 1 / 0)
    again = items_of(actor(pa.concat_tables(tables)))
    for one, other in zip(alone, again, strict=True):
        assert one.picture is not None
        assert other.picture is not None
        assert torch.equal(one.picture.samples, other.picture.samples)


def test_parquet_results_are_written_together_and_failures_apart() -> None:
    for k in range(3):
        store.write(f"memory://in/{k}.png", picture(k) if k else b"nothing")
    jobs = [Job(f"{k}", f"{k}.png", f"memory://in/{k}.png") for k in range(3)]
    output, how = "memory://out.parquet", recipe()
    Manifest(output).begin("settings", overwrite=False)
    decoded = pa.concat_tables(decode(as_table([Item(job) for job in jobs])))
    encoded = write(Restyler(how, output, 1)(decoded), output)
    assert [name for name in store.names(output) if "part" in name] == []
    items = items_of(collect(encoded, output))
    assert [item.result for item in items] == [None] * 3
    rows = Manifest(output).read()
    assert [rows[f"{k}.png"].status for k in range(3)] == ["failed", "done", "done"]
    [part] = [name for name in store.names(output) if name.startswith("part-")]
    results = parquet.read_table(BytesIO(store.read(store.join(output, part)))).to_pylist()
    assert [sha256(r["image"]).hexdigest() for r in results] == [r["sha256"] for r in results]


def test_a_video_among_the_pictures_is_restyled_as_one(tmp_path: Path) -> None:
    write_video(tmp_path / "in.mp4", frames(6, (32, 40)))
    how = recipe(constraint="photoreal")
    how = Recipe(how.stylizer, video={"hold": "scene", "codec": None, "crf": None})
    url = str(tmp_path / "in.mp4")
    item = through(Job(url, "clip/in.mp4", url), how, str(tmp_path / "out"))
    assert (item.error, item.size) == (None, (40, 32))
    written = (tmp_path / "out/clip/in.mp4").read_bytes()
    assert item.sha256 == sha256(written).hexdigest()
    assert len(read_video(tmp_path / "out/clip/in.mp4")) == 6


def test_one_look_is_applied_to_all() -> None:
    how = recipe(constraint="photoreal")
    content = images.read(BytesIO(picture(1)))
    look = how.stylizer.look(content)
    store.write("memory://in/a.png", picture(2))
    job = Job("memory://in/a.png", "a.png", "memory://in/a.png")
    assert through(job, Recipe(how.stylizer, look=look)).error is None
    expected = look(images.read(BytesIO(picture(2)))).samples
    assert torch.equal(images.read(BytesIO(store.read("memory://out/a.png"))).samples, expected)


# Workers.


def test_workers_fit_into_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0, "memory": 3.5 * MEMORY}},
        {"Alive": True, "Resources": {"CPU": 4.0, "memory": 90.0 * MEMORY}},
        {"Alive": False, "Resources": {"CPU": 64.0, "memory": 90.0 * MEMORY}},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert choose_workers(None, None, None) == Workers(3 + 4, 1, False)
    assert choose_workers(None, 4, None) == Workers(2 + 1, 4, False)
    assert choose_workers(5, 2, "cpu") == Workers(5, 2, False)
    with pytest.raises(ValueError, match="cores must be at most what a node has"):
        choose_workers(None, 9, None)
    with pytest.raises(ValueError, match="device must be cpu where Ray finds no GPU, got cuda"):
        choose_workers(None, None, "cuda")
    assert choose_workers(10, None, "cuda").on_gpu  # they are still to come
    nodes[0]["Resources"]["GPU"] = 2.0  # type: ignore[index]
    assert choose_workers(None, None, None) == Workers(2, 1, True, 3.5)
    assert Workers(2, 1, True, 3.5).resources == {"num_cpus": 0.5, "num_gpus": 1, "memory": MEMORY}
    assert Workers(2, 1, True, 3.5).resources_beside == {"num_cpus": 1.0}
    nodes[0]["Resources"]["CPU"] = 2.0  # type: ignore[index]
    assert choose_workers(None, None, None).resources_beside == {"num_cpus": 0.25}
    nodes[0]["Resources"]["CPU"] = 1.0  # type: ignore[index]
    with pytest.raises(ValueError, match=r"nodes must have a core per GPU at least, got 0\.5"):
        choose_workers(None, None, None)
    nodes[0]["Resources"]["CPU"] = 8.0  # type: ignore[index]
    assert choose_workers(None, None, "cpu") == Workers(3 + 4, 1, False)


# The command.


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--style must be given, or --style-column, got neither"),
        (
            ["--style", "udnie", "--force", "--skip-existing"],
            "--skip-existing must be given without",
        ),
        (["--style", "udnie", "--one-look"], "--one-look must be given with --photoreal"),
        (["--style", "udnie", "--solve-size", "64"], "--solve-size must be given with --photoreal"),
        (["--style", "udnie", "--hold", "flow"], "--hold must be given with --photoreal"),
        (["--style", "udnie", "--format", "docx"], "format must be one of .jpg"),
        (["--style", "gone.png"], "gone.png cannot be read: No such file or directory"),
        (["--style", "udnie", "--address", "127.0.0.1:9"], "address must be that of a Ray cluster"),
        (
            ["--style", "a.png", "--photoreal", "--one-look", "--no-refine"],
            "--one-look must be given without",
        ),
    ],
)
def test_wrong_options_end_with_a_sentence(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store.write(f"{tmp_path}/in/a.png", picture(1))
    result = CliRunner().invoke(cli, ["batch", "in", "-o", "out", *args])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists() or not results(tmp_path / "out")


def test_the_commands_of_the_guide_are_understood() -> None:
    text = (Path(__file__).parents[1] / "docs/cluster.md").read_text()
    [block] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    job = yaml.safe_load(block)
    assert job["kind"] == "RayJob"
    assert job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == 10
    lines = [job["spec"]["entrypoint"], *re.findall(r"^    (fastfcs batch .*)", text, re.MULTILINE)]
    assert len(lines) > 3
    for line in lines:
        context = batch.make_context("batch", shlex.split(line)[2:])
        assert context.params["output"], line


# Whole runs.


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "fastfcs", "batch", *args, "--weights", "tiny", "--device", "cpu"]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"} | more


def album(folder: Path, count: int, broken: int) -> None:
    for k in range(count):
        store.write(str(folder / f"in/{k % 3}/{k:03d}.png"), picture(k, 64 + k % 2 * 32, 64))
    for k in range(broken):
        store.write(str(folder / f"in/{k % 3}/broken{k}.png"), b"nothing")
    store.write(str(folder / "style.png"), picture(1000, 120, 100))


def expected(folder: Path, *options: str) -> dict[str, bytes]:
    """What `fastfcs stylize` makes of the album."""
    args = ["stylize", "in", "--recursive", "--style", "style.png", "-o", "expected", *options]
    subprocess.run(
        [sys.executable, "-m", "fastfcs", *args, "--weights", "tiny", "--device", "cpu"],
        cwd=folder,
        env=environment(),
        capture_output=True,
    )
    return results(folder / "expected")


def results(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*.png")
        if path.is_file()
    }


def wait_for(condition: Callable[[], bool], seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


def restylers(driver: int) -> list[int]:
    """The processes of the actors that a driver's Ray has started."""
    found = subprocess.run(["pgrep", "-f", "MapWorker"], capture_output=True, text=True)
    return [pid for pid in map(int, found.stdout.split()) if driver in ancestors(pid)]


def ancestors(pid: int) -> list[int]:
    chain = []
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
        chain.append(pid)
    return chain


@contextmanager
def two_nodes(env: dict[str, str]) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a cluster of two nodes on this machine, and the process of the second."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray_start = [str(Path(sys.executable).with_name("ray")), "start", "--num-cpus=1", "--block"]
    ray_start += ["--object-store-memory=100000000"]
    head = ["--head", f"--port={port}", "--include-dashboard=false"]
    options = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "env": env,
        "start_new_session": True,
    }
    nodes = []
    try:
        nodes.append(subprocess.Popen([*ray_start, *head], **options))  # type: ignore[call-overload]
        wait_for(lambda: is_listening(port))
        join = f"--address=127.0.0.1:{port}"
        nodes.append(subprocess.Popen([*ray_start, join], **options))  # type: ignore[call-overload]
        yield f"127.0.0.1:{port}", nodes[1]
    finally:
        for node in nodes:  # which would take half a minute to end in order
            os.killpg(node.pid, signal.SIGKILL)
            node.wait()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_a_killed_worker_command_and_node_lose_nothing(tmp_path: Path) -> None:
    album(tmp_path, 120, 4)
    args = command("in", "--style", "style.png", "-o", "out", "--json")
    process = subprocess.Popen(args, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE)
    wait_for(lambda: len(results(tmp_path / "out")) >= 5)
    [victim, *_] = restylers(process.pid)
    os.kill(victim, signal.SIGKILL)
    before = len(results(tmp_path / "out"))
    wait_for(lambda: len(results(tmp_path / "out")) > before + 5)
    process.kill()
    process.communicate()
    time.sleep(3)  # until Ray has noticed
    first = {
        name: os.stat(tmp_path / "out" / name).st_mtime_ns for name in results(tmp_path / "out")
    }
    rows = Manifest(str(tmp_path / "out")).read()
    assert 10 < len(first) < 110
    # The same command, on a cluster that loses one of two nodes.
    env = environment(RAY_num_workers_soft_limit="100")
    with two_nodes(env) as (address, node):
        again = subprocess.Popen(
            [*args, "--address", address],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: len(results(tmp_path / "out")) >= len(first) + 10)
        node.terminate()
        stdout, stderr = again.communicate(timeout=600)
    assert again.returncode == 2, stderr
    assert "pictures skipped: the output exists" in stderr
    reports = [json.loads(line) for line in stdout.splitlines()]
    done = {name for name, r in rows.items() if r.status == "done"}
    assert {r["output"].removeprefix("out/") for r in reports if "error" not in r} == {
        f"{k % 3}/{k:03d}.png" for k in range(120)
    } - done
    assert sum("error" in r for r in reports) == 4
    for name in done:
        assert os.stat(tmp_path / "out" / name).st_mtime_ns == first[name]
    assert results(tmp_path / "out") == expected(tmp_path)
    table = parquet.read_table(tmp_path / "out/_manifest.parquet").to_pylist()
    assert len(table) == len({r["output"] for r in table}) == 124
    for r in table:
        assert (r["status"] == "failed") == ("broken" in r["input"])
        if r["status"] == "done":
            data = (tmp_path / "out" / r["output"]).read_bytes()
            assert r["sha256"] == sha256(data).hexdigest()
            assert r["size"] == list(Image.open(BytesIO(data)).size)
    assert [path.name for path in (tmp_path / "out").rglob(".*")] == [".fastfcs"]
    assert [path.name for path in (tmp_path / "out/.fastfcs").iterdir()] == ["settings"]


@pytest.mark.slow
def test_from_a_table_in_s3_to_parquet_files_in_s3(tmp_path: Path) -> None:
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        env = environment(
            AWS_ENDPOINT_URL=f"http://{host}:{port}",
            AWS_ACCESS_KEY_ID="key",
            AWS_SECRET_ACCESS_KEY="secret",
            AWS_DEFAULT_REGION="us-east-1",
        )
        script = (
            "import fsspec, sys\n"
            "system = fsspec.filesystem('s3')\n"
            "system.mkdir('album')\n"
            "for path in sys.argv[1:]:\n"
            "    system.put_file(path, 'album/' + path)\n"
        )
        album(tmp_path, 6, 1)
        (tmp_path / "list.csv").write_text(
            "path,look\n"
            + "".join(f"in/{k % 3}/{k:03d}.png,{'style.png' * (k % 2)}\n" for k in range(6))
        )
        paths = [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")]
        subprocess.run([sys.executable, "-c", script, *paths], cwd=tmp_path, env=env, check=True)
        args = command("s3://album/list.csv", "--style", "style.png", "--style-column", "look")
        run = subprocess.run(
            [*args, "-o", "s3://album/out.parquet", "--workers", "1"],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        script = (
            "import pyarrow.parquet as p, s3fs\n"
            "s3 = s3fs.S3FileSystem()\n"
            "p.write_table(p.read_table('album/out.parquet', filesystem=s3), 'out.parquet')\n"
            "s3.get_file('album/out.parquet/_manifest.parquet', 'manifest.parquet')\n"
        )
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, check=True)
    finally:
        server.stop()
    stored = {r["output"]: r for r in parquet.read_table(tmp_path / "out.parquet").to_pylist()}
    wanted = expected(tmp_path)
    assert {name: r["image"] for name, r in stored.items()} == wanted
    assert len(wanted) == 6
    assert parquet.read_table(tmp_path / "manifest.parquet")["status"].to_pylist() == ["done"] * 6
