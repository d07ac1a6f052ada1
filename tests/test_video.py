"""Video files: what is read, what is kept, what is raised, and what is left after interruptions."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from videos import facts, frames, read_video, write_video

from fastfcs import images
from fastfcs.cli import cli
from fastfcs.images import Picture, cicp
from fastfcs.look import Look
from fastfcs.network import UnrolledSolver
from fastfcs.stylizer import Stylizer
from fastfcs.video.ahead import ahead
from fastfcs.video.container import VideoError
from fastfcs.video.encoding import choose_encoding
from fastfcs.video.frames import Converter, Kind
from fastfcs.video.partial import partial_path
from fastfcs.video.restyle import Stopped, restyle
from fastfcs.video.source import Video

COUNT = 12


@pytest.fixture(scope="module")
def reference() -> Picture:
    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 96), indexing="ij")
    return Picture(torch.stack([0.9 * x, 0.5 * y, 0.2 + 0.3 * x * y]))


@pytest.fixture(scope="module")
def painter(reference: Picture) -> Stylizer:
    torch.manual_seed(0)
    return Stylizer(reference, weights=UnrolledSolver(updates=1, channels=(8, 8)))


@pytest.fixture(scope="module")
def photographer(reference: Picture) -> Stylizer:
    return Stylizer(reference, weights="tiny", constraint="photoreal")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    return write_video(path, frames(COUNT), sound=True)


# Frames


def rgb_of(
    y: float, u: float, v: float, kr: float, kb: float, full: bool
) -> tuple[float, float, float]:
    """From 8-bit YCbCr to RGB in [0, 1] (ITU-R BT.601, 709, 2020)."""
    y, scale = (y / 255, 255) if full else ((y - 16) / 219, 224)
    u, v = (u - 128) / scale, (v - 128) / scale
    r, b = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    return r, (y - kr * r - kb * b) / (1 - kr - kb), b


MATRICES = {5: (0.299, 0.114), 6: (0.299, 0.114), 1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}


@pytest.mark.parametrize("matrix", [*MATRICES, 2])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("bits", [8, 10])
def test_colours_by_the_standards(matrix: int, full: bool, bits: int) -> None:
    """Against the formulas, of all matrices and ranges; untagged HD is BT.709, SD is BT.601."""
    for height in (48, 720):
        frame = av.VideoFrame(64, height, "yuv444p" if bits == 8 else "yuv444p10le")
        for plane, value in zip(frame.planes, (120, 100, 170), strict=True):
            dtype = np.uint8 if bits == 8 else "<u2"
            np.frombuffer(plane, dtype)[:] = value << (bits - 8)  # type: ignore[call-overload]
        frame.colorspace, frame.color_range = matrix, 2 if full else 1
        weights = MATRICES.get(matrix, MATRICES[1 if height == 720 else 5])
        converter = Converter(Kind.of(frame), frame.format.name)
        picture = converter.picture(frame)
        want = rgb_of(120, 100, 170, *weights, full=full and bits == 8)
        if full and bits == 10:
            want = rgb_of(120 * 4 * 255 / 1023, 100, 170, *weights, full=True)
        np.testing.assert_allclose(picture.pixels[:, 0, 0].numpy(), want, atol=0.008)
        back = converter.frame(picture, frame)
        for plane, value in zip(back.planes, (120, 100, 170), strict=True):
            stored = np.frombuffer(plane, np.uint8 if bits == 8 else np.uint16)
            assert abs(int(stored[0]) - (value << (bits - 8))) <= 2 << (bits - 8) // 2
        assert (int(back.colorspace), int(back.color_range)) == (matrix, 2 if full else 1)


def test_upright_and_back() -> None:
    """Frames are turned as players turn them, and back."""
    source = np.zeros((48, 64, 3), np.uint8)
    source[:24, :32] = 255  # top left
    for rotation, corner in ((0, (0, 0)), (90, (-1, 0)), (180, (-1, -1)), (270, (0, -1))):
        frame = av.VideoFrame.from_ndarray(source, format="rgb24").reformat(format="yuv444p")
        kind = Kind.of(frame)
        matrix = {
            0: (1, 0, 0, 0, 1),
            90: (0, -1, 0, 1, 0),
            180: (-1, 0, 0, 0, -1),
            270: (0, 1, 0, -1, 0),
        }[rotation]
        turned = tuple(65536 * number for number in matrix)
        kind = Kind(**{**vars(kind), "matrix_of_display": (*turned, 0, 0, 0, 1 << 30)})
        converter = Converter(kind, "yuv444p")
        picture = converter.picture(frame)
        assert picture.size == ((64, 48) if rotation % 180 == 0 else (48, 64))
        assert picture.pixels[:, corner[0], corner[1]].min() > 0.9, rotation
        back = converter.frame(picture, frame).to_ndarray(format="rgb24")
        assert np.abs(back.astype(int) - source).max() <= 2


def test_look_of_other_primaries() -> None:
    """In the encoding of a profile a look does what it does to a picture with that profile."""
    icc, _ = cicp.profile(9, 1)
    grid = Look.identity(17).grid
    look = Look((grid ** torch.tensor([0.8, 1.0, 1.3]).view(3, 1, 1, 1)).clamp(0, 1))
    picture = Picture(0.2 + 0.6 * torch.rand(3, 24, 32), icc=icc, depth=16)
    direct = look(picture).pixels
    mapped = look.encoded(icc).map(picture.pixels[None])[0]
    assert (direct - mapped).abs().mean() < 2e-3
    assert (direct - picture.pixels).abs().mean() > 0.02
    assert look.encoded(None) is look


def test_encodings() -> None:
    def kind(format: str, width: int = 64, height: int = 48) -> Kind:
        return Kind.of(av.VideoFrame(width, height, format))

    cases = {
        ("yuv420p", "a.mp4"): ("libx264", "yuv420p", 0),
        ("yuv422p10le", "a.mov"): ("libx264", "yuv422p10le", 1),
        ("yuv420p12le", "a.mkv"): ("libx264", "yuv420p10le", 1),
        ("rgb24", "a.mp4"): ("libx264", "yuv444p", 1),
        ("gray", "a.mp4"): ("libx264", "yuv420p", 0),
        ("yuv420p10le", "a.webm"): ("libvpx-vp9", "yuv420p", 1),
        ("yuva420p", "a.webm"): ("libvpx-vp9", "yuva420p", 0),
        ("yuva444p10le", "a.mov"): ("prores_ks", "yuva444p10le", 0),
        ("yuva444p10le", "a.mkv"): ("libvpx-vp9", "yuva420p", 2),
    }
    for (format, target), (codec, chosen, notes) in cases.items():
        encoding = choose_encoding(kind(format), target)
        assert (encoding.codec, encoding.format) == (codec, chosen), format
        assert len(encoding.notes) == notes, encoding.notes
    odd = choose_encoding(kind("yuv420p", 65, 49), "a.mp4")
    assert (odd.format, len(odd.notes)) == ("yuv444p", 1)
    assert choose_encoding(kind("yuv420p", 65, 49), "a.webm").notes == ()
    assert choose_encoding(kind("yuv420p"), "a.mp4", crf=30).options["crf"] == "30"
    for arguments, sentence in {
        ("yuv420p", "a.avi"): "output must end in .mp4",
        ("yuva420p", "a.mp4"): "a.mp4 must hold transparency, which libx264 does not",
        ("yuv420p", "a.mp4", "x"): "codec must be an encoder of FFmpeg, got 'x'",
        ("yuv420p", "a.mp4", "aac"): "codec must be an encoder of video, got 'aac'",
        ("yuv420p", "a.mov", "prores_ks", 20.0): "crf must be given with one of libx264",
        ("yuv420p", "a.mp4", "gif"): "codec must take YUV frames",
    }.items():
        format, *rest = arguments
        with pytest.raises(VideoError, match=sentence):
            choose_encoding(kind(str(format)), *rest)  # type: ignore[arg-type]


def test_ahead_stops_with_its_consumer() -> None:
    seen = []

    def endless() -> Iterator[int]:
        index = 0
        while True:
            seen.append(index)
            yield index
            index += 1

    for item in ahead(endless(), 2):
        if item == 5:
            break
    assert len(seen) < 12

    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    items = ahead(failing())
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)


# Files


def test_what_is_kept(tmp_path: Path, painter: Stylizer) -> None:
    """Times, size, rotation, tags, sound, metadata, and 10 bits, of a clip with odd times."""
    source = write_video(
        tmp_path / "a.mov",
        [frame.astype(np.uint16) * 257 for frame in frames(COUNT)],
        format="yuv420p10le",
        times=[0, 1001, 2002, 4004, 5005, 9009, 9510, 10010, 12012, 13013, 15015, 18018],
        time_base=Fraction(1, 30000),
        sound=True,
        rotation=90,
        metadata={"title": "Waves"},
        color_range=1,
        color_primaries=9,
        color_trc=14,
        colorspace=9,
    )
    want = facts(source)
    assert want["rotation"] == 90
    for suffix in (".mov", ".mp4"):
        target = tmp_path / f"b{suffix}"
        report = restyle(source, target, painter)
        assert (report.frames, report.size, report.scenes) == (COUNT, (96, 64), None)
        got = facts(target)
        assert abs(got.pop("duration") - want["duration"]) < 70_000  # microseconds
        assert got == {key: value for key, value in want.items() if key != "duration"}
        with av.open(str(target)) as container:
            assert container.streams.video[0].codec_context.pix_fmt == "yuv420p10le"
        assert not partial_path(target).exists()


def test_subtitles_chapters_and_covers(tmp_path: Path, clip: Path, painter: Stylizer) -> None:
    """Also an attachment, such as a font."""
    (tmp_path / "s.srt").write_text("1\n00:00:00,000 --> 00:00:00,400\nHello\n")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "cover.jpg")
    source = tmp_path / "a.mkv"
    chapter = {"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000)}
    with (
        av.open(str(clip)) as a,
        av.open(str(tmp_path / "s.srt")) as s,
        av.open(str(tmp_path / "cover.jpg")) as c,
        av.open(str(source), "w") as output,
    ):
        pairs = [(each, output.add_stream_from_template(each)) for each in a.streams]
        pairs.append((s.streams[0], output.add_stream_from_template(s.streams[0])))
        pairs[-1][1].metadata["language"] = "fre"
        pairs.append((c.streams[0], output.add_stream_from_template(c.streams[0])))
        pairs[-1][1].disposition |= av.stream.Disposition.attached_pic
        output.add_attachment("font.ttf", "application/x-truetype-font", b"letters")
        output.set_chapters([{**chapter, "metadata": {"title": "One"}}])
        for container in (a, s, c):
            for packet in container.demux():
                if packet.size:
                    packet.stream = dict((id(x), y) for x, y in pairs)[id(packet.stream)]
                    output.mux(packet)
    want = facts(source)
    assert want["languages"][2] == "fre"
    restyle(source, tmp_path / "b.mkv", painter)
    got = facts(tmp_path / "b.mkv")
    assert got["streams"][:3] == ["video", "audio", "subtitle"]
    assert sorted(got["streams"]) == sorted(want["streams"])
    for name in ("times", "chapters", "covers", "others"):
        assert got[name] == want[name], name
    assert got["languages"][2] == "fre"
    for target, sentence in {
        "b.mp4": r"b.mp4 cannot hold the subtitles \(\w+\) of .*; .mkv can",
        "b.webm": r"b.webm cannot hold the audio \(aac\) of .*; .mp4 and .m4v and .mov and .mkv",
    }.items():
        with pytest.raises(VideoError, match=sentence):
            restyle(source, tmp_path / target, painter)
        assert not (tmp_path / target).exists()


@pytest.mark.parametrize(
    ("name", "codec", "format", "tolerance"),
    [("a.webm", "libvpx-vp9", "yuva420p", 8), ("a.mov", "prores_ks", "yuva444p10le", 2)],
)
def test_transparency(
    tmp_path: Path,
    painter: Stylizer,
    photographer: Stylizer,
    name: str,
    codec: str,
    format: str,
    tolerance: int,
) -> None:
    alpha = np.zeros((64, 96, 1), np.uint8)
    alpha[:, 32:64], alpha[:, 64:] = 128, 255
    pictures = [np.concatenate([frame, alpha], -1) for frame in frames(4)]
    options = {"profile": "4444"} if codec == "prores_ks" else {"crf": "10", "b": "0"}
    source = write_video(tmp_path / name, pictures, codec=codec, format=format, options=options)
    for stylizer in (painter, photographer):
        target = tmp_path / f"out{source.suffix}"
        report = restyle(source, target, stylizer, overwrite=True)
        assert report.frames == 4
        result = list(Video(target).frames())
        assert Video(target).kind.has_alpha
        for frame in result:
            got = frame.to_ndarray(format="rgba")[..., 3:].astype(int)
            assert np.abs(got - alpha)[:, 4:28].max() <= tolerance
            assert np.abs(got - alpha)[:, 36:60].max() <= tolerance
            assert np.abs(got - alpha)[:, 68:].max() <= tolerance


def test_tags_that_players_know(tmp_path: Path, painter: Stylizer) -> None:
    source = write_video(tmp_path / "a.mkv", frames(2), format="yuv444p")
    restyle(source, tmp_path / "b.mov", painter, codec="prores_ks")
    with av.open(str(tmp_path / "b.mov")) as container:
        assert container.streams.video[0].codec_context.codec_tag == "ap4h"


def test_opaque_gif(tmp_path: Path, painter: Stylizer) -> None:
    """Their decoder always adds alpha, so it must be looked at."""
    still = [Image.fromarray(frame) for frame in frames(4)]
    still[0].save(tmp_path / "a.gif", save_all=True, append_images=still[1:], duration=100)
    assert restyle(tmp_path / "a.gif", tmp_path / "b.mp4", painter).frames == 4
    assert not Video(tmp_path / "a.gif").kind.has_alpha


def test_one_frame_and_odd_sizes(tmp_path: Path, photographer: Stylizer) -> None:
    one = write_video(tmp_path / "one.mp4", frames(1))
    report = restyle(one, tmp_path / "out.mp4", photographer)
    assert (report.frames, report.scenes) == (1, 1)
    odd = write_video(tmp_path / "odd.webm", frames(3, (49, 65)), codec="libvpx-vp9", options={})
    report = restyle(odd, tmp_path / "odd.mp4", photographer)
    assert any("since its sides are odd" in note for note in report.notes)
    assert facts(tmp_path / "odd.mp4")["size"] == (65, 49)


def test_looks_are_those_of_the_stylizer(
    tmp_path: Path, clip: Path, reference: Picture, photographer: Stylizer
) -> None:
    """A file's frames are mapped by the look as pictures are, but for the encoding."""
    source = write_video(tmp_path / "a.mkv", frames(4), format="yuv444p", options={"qp": "0"})
    restyle(source, tmp_path / "b.mkv", photographer, crf=1)
    before, after = read_video(source), read_video(tmp_path / "b.mkv")
    look = photographer.look([before[0], before[2]])
    for x, y in zip(before, after, strict=True):
        want = look(x).astype(int)
        assert np.abs(want - x).mean() > 10
        assert np.abs(want - y).mean() < 2.5


BROKEN: dict[str, Callable[[Path, Path], Any]] = {
    "cannot be read: Invalid data found when processing input": lambda p, c: p.write_bytes(b""),
    "cannot be read: Invalid data found when processing input ": lambda p, c: p.write_bytes(
        np.random.default_rng(0).bytes(20_000)
    ),
    "cannot be read: Invalid data found when processing input  ": lambda p, c: p.write_bytes(
        c.read_bytes()[: c.stat().st_size // 2]
    ),
    "cannot be read: No such file or directory": lambda p, c: None,
    "must be a video, got a picture, which fastfcs stylize restyles": lambda p, c: Image.new(
        "RGB", (32, 32)
    ).save(p, "PNG"),
    "must be at least 16 pixels per side, got 8 x 8": lambda p, c: write_video(
        p, frames(2, (8, 8))
    ),
}


@pytest.mark.parametrize("sentence", BROKEN)
def test_broken_files(tmp_path: Path, clip: Path, painter: Stylizer, sentence: str) -> None:
    path = tmp_path / "a.mp4"
    BROKEN[sentence](path, clip)
    with pytest.raises(VideoError) as caught:
        restyle(path, tmp_path / "out.mp4", painter)
    assert str(caught.value) == f"{path} {sentence.strip()}"
    assert not [each for each in tmp_path.iterdir() if each != path]


def test_sound_alone(tmp_path: Path, clip: Path, painter: Stylizer) -> None:
    path = tmp_path / "a.m4a"
    with av.open(str(clip)) as source, av.open(str(path), "w", "mp4") as output:
        stream = output.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    with pytest.raises(VideoError, match="must hold video, got audio"):
        restyle(path, tmp_path / "out.mp4", painter)


def test_truncated(tmp_path: Path, painter: Stylizer, photographer: Stylizer) -> None:
    """The index says that there is more: the part is kept, but not called the whole."""
    long = write_video(tmp_path / "long.mkv", frames(100), options={"crf": "10", "g": "10"})
    path = tmp_path / "a.mkv"
    path.write_bytes(long.read_bytes()[: long.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"is damaged: it ends after \d.\d of 4.0 seconds; \d+ of"):
        restyle(path, tmp_path / "out.mkv", painter)
    assert not (tmp_path / "out.mkv").exists()
    assert 30 < len(read_video(tmp_path / "out.partial.mkv")) < 70
    with pytest.raises(VideoError, match=r"is damaged: it ends after \d.\d of 4.0 seconds$"):
        restyle(path, tmp_path / "photo.mkv", photographer)
    assert not list(tmp_path.glob("photo*"))


def test_a_little_is_missing(tmp_path: Path, painter: Stylizer) -> None:
    """A twentieth of the file, with the index at the front, and with sound that hides it."""
    whole = write_video(tmp_path / "whole.mkv", frames(50), sound=True)
    path = tmp_path / "a.mp4"
    with (
        av.open(str(whole)) as source,
        av.open(str(path), "w", container_options={"movflags": "faststart"}) as output,
    ):
        to = {each.index: output.add_stream_from_template(each) for each in source.streams}
        for packet in source.demux():
            if packet.size:
                packet.stream = to[packet.stream.index]
                output.mux(packet)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 95 // 100])
    with pytest.raises(VideoError, match=r"is damaged: it holds \d+ of 50 frames"):
        restyle(path, tmp_path / "out.mp4", painter)
    (tmp_path / "b.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size * 95 // 100])
    with pytest.raises(VideoError, match="is damaged"):
        restyle(tmp_path / "b.mkv", tmp_path / "out.mkv", painter)


def test_few_frames_per_second(tmp_path: Path, painter: Stylizer) -> None:
    """With frames that are stored out of order, the last packet is not the last frame."""
    for name in ("a.mp4", "a.mkv"):
        second = Fraction(1, 1000)
        source = write_video(
            tmp_path / name, frames(12), times=range(0, 12_000, 1000), time_base=second
        )
        target = tmp_path / f"out{name}"
        assert restyle(source, target, painter).frames == 12
        assert facts(target)["times"] == list(range(12))
        assert Video(target).rate < 30


def test_av1(tmp_path: Path, clip: Path, painter: Stylizer) -> None:
    """Its decoder has another name than its encoders."""
    target = tmp_path / "out.mp4"
    assert restyle(clip, target, painter, codec="libsvtav1", crf=40).frames == COUNT
    assert facts(target)["times"] == facts(clip)["times"]
    assert restyle(target, tmp_path / "again.mp4", painter).frames == COUNT


def test_transparency_with_tags(tmp_path: Path, painter: Stylizer) -> None:
    pictures = [np.dstack([frame, frame[..., :1]]) for frame in frames(3)]
    source = write_video(
        tmp_path / "a.webm",
        pictures,
        codec="libvpx-vp9",
        format="yuva420p",
        options={"crf": "10", "b": "0"},
        color_range=1,
        color_primaries=9,
        color_trc=14,
        colorspace=9,
    )
    restyle(source, tmp_path / "b.webm", painter)
    for path in (source, tmp_path / "b.webm"):
        kind = Video(path).kind
        assert kind.tags == dict(color_range=1, color_primaries=9, color_trc=14, colorspace=9)
        assert kind.icc is not None


def test_what_is_left_after_failures(tmp_path: Path, clip: Path, painter: Stylizer) -> None:
    """Nothing, if nothing was done; and never the source's end."""
    several = Stylizer(weights=painter.solver).set_style([Picture(torch.rand(3, 20, 20))] * 2)
    with pytest.raises(ValueError, match="style must be a single one for a video, got 2"):
        restyle(clip, tmp_path / "out.mp4", several)
    failing = Stylizer(
        Picture(torch.rand(3, 20, 20)), weights=painter.solver, constraint=lambda x: x[:, :2]
    )
    with pytest.raises(ValueError, match="constraint must return a tensor of X's shape"):
        restyle(clip, tmp_path / "out.mp4", failing)
    assert not list(tmp_path.iterdir())
    own = tmp_path / "v.partial.mp4"
    shutil.copy(clip, own)
    for overwrite in (False, True):
        with pytest.raises(VideoError, match=r"v.partial.mp4 is the video itself"):
            restyle(own, tmp_path / "v.mp4", painter, overwrite=overwrite)
    assert own.read_bytes() == clip.read_bytes()


def test_colons_in_relative_paths(
    tmp_path: Path, clip: Path, painter: Stylizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(clip, "a:b 50%'é.mp4")
    assert restyle("a:b 50%'é.mp4", "c:d.mp4", painter).frames == COUNT
    assert Path("c:d.mp4").exists()


def test_matrices_that_are_not_converted(tmp_path: Path, painter: Stylizer) -> None:
    source = write_video(tmp_path / "a.mkv", frames(2), format="yuv444p", colorspace=8)
    with pytest.raises(VideoError, match=r"must be encoded by one of the matrices .*, got 8"):
        restyle(source, tmp_path / "out.mkv", painter)


def test_streams_that_containers_refuse(tmp_path: Path, clip: Path, painter: Stylizer) -> None:
    """Before any work is done."""
    source = tmp_path / "a.mkv"
    with av.open(str(source), "w") as output:
        stream: Any = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        audio: Any = output.add_stream("flac", rate=22_050, layout="mono")
        for index, picture in enumerate(frames(4)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(frame))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), "s16", "mono")
        samples.sample_rate, samples.pts = 22_050, 0
        output.mux(audio.encode(samples))
        output.mux(audio.encode(None))
        output.mux(stream.encode(None))
    with pytest.raises(VideoError, match=r"out.mov cannot hold the audio \(flac\)"):
        restyle(source, tmp_path / "out.mov", painter)
    assert restyle(source, tmp_path / "out.mkv", painter).frames == 4


def test_outputs_that_exist(tmp_path: Path, clip: Path, painter: Stylizer) -> None:
    (tmp_path / "out.mp4").write_bytes(b"mine")
    for target, sentence in {
        "out.mp4": "out.mp4 exists already; --force overwrites",
        "gone/out.mp4": "is not a folder",
        ".": "output must end in .mp4",
    }.items():
        with pytest.raises(VideoError, match=sentence):
            restyle(clip, tmp_path / target, painter)
    assert (tmp_path / "out.mp4").read_bytes() == b"mine"
    with pytest.raises(VideoError, match="output must be another file than the video"):
        restyle(clip, clip, painter, overwrite=True)
    with pytest.raises(ValueError, match="hold must be None for a painting, got 'scene'"):
        restyle(clip, tmp_path / "b.mp4", painter, hold="scene")


# Interruptions


class Interrupter:
    """Acts when a number of frames has been restyled."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        self.at, self.act = at, act

    @contextmanager
    def __call__(self, stage: str, total: int | None) -> Iterator[Callable[[], None]]:
        count = 0

        def advance() -> None:
            nonlocal count
            count += 1
            if stage == "restyling" and count == self.at:
                self.act()

        yield advance


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_interrupted_and_resumed(tmp_path: Path, painter: Stylizer, suffix: str) -> None:
    source = write_video(tmp_path / "a.mp4", frames(120), sound=True)
    target, unfinished = tmp_path / f"out{suffix}", tmp_path / f"out.partial{suffix}"
    with pytest.raises(Stopped, match=r"stopped: 20 of about 120 frames are in .*--resume"):
        restyle(source, target, painter, progress=Interrupter(20, interrupt))
    assert not target.exists()
    assert len(read_video(unfinished)) == 20
    assert facts(unfinished)["streams"] == ["video", "audio"]
    with pytest.raises(VideoError, match="exists already: --resume continues it, --force replaces"):
        restyle(source, target, painter)
    with pytest.raises(VideoError, match="must come from the same video and settings"):
        restyle(source, target, painter, crf=30, resume=True)
    # Killed at once, before anything was written, and later: what is on the disk is what is left.
    begun = tmp_path / f"begun{suffix}"
    partial_path(begun).write_bytes(b"")
    assert (
        restyle(write_video(tmp_path / "b.mp4", frames(2)), begun, painter, resume=True).frames == 2
    )
    begun.unlink()
    (tmp_path / "b.mp4").unlink()
    snapshot = tmp_path / "snapshot"
    copy = Interrupter(115, lambda: shutil.copy(unfinished, snapshot) and interrupt())
    with pytest.raises(Stopped):
        restyle(source, target, painter, resume=True, progress=copy)
    shutil.copy(snapshot, unfinished)
    assert 20 <= len(read_video(unfinished)) < 115
    assert restyle(source, target, painter, resume=True).frames == 120
    want, got = facts(source), facts(target)
    if suffix == ".mp4":
        assert got["others"] == want["others"]
    else:  # without the packet before the beginning, which an edit list hides
        assert set(got["others"]) < set(want["others"])
        assert len(got["others"]) == len(want["others"]) - 1
    # Sound and picture begin together, as before.
    assert got["times"] == want["times"]
    assert abs(got["duration"] - want["duration"]) < 50_000
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.mp4", target.name, "snapshot"]
    # The seams do not show: as an uninterrupted run paints it, but for the encoder's groups.
    restyle(source, tmp_path / f"whole{suffix}", painter)
    whole, resumed = read_video(tmp_path / f"whole{suffix}"), read_video(target)
    for x, y in zip(whole, resumed, strict=True):
        assert np.abs(x.astype(int) - y).mean() < 4


def test_interrupted_by_signals(tmp_path: Path, clip: Path, painter: Stylizer) -> None:
    """Whenever they come, no packet is lost: what is kept is what the message says."""
    source = write_video(tmp_path / "a.mp4", frames(60))
    for index in range(6):
        target = tmp_path / f"out{index}.mkv"
        with pytest.raises(KeyboardInterrupt) as caught:  # noqa: PT012
            signal.setitimer(signal.ITIMER_REAL, 0.15 + 0.05 * index)
            before = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
            try:
                while True:
                    restyle(source, target, painter, overwrite=True)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
        if isinstance(caught.value, Stopped):
            count = int(str(caught.value).split()[1])
            assert len(read_video(partial_path(target))) == count
            assert restyle(source, target, painter, resume=True, overwrite=True).frames == 60
            assert facts(target)["times"] == facts(source)["times"]


def test_interrupted_after_the_last_frame(tmp_path: Path, clip: Path, painter: Stylizer) -> None:
    target = tmp_path / "out.mp4"
    with pytest.raises(Stopped, match=f"{COUNT} of about {COUNT} frames"):
        restyle(clip, target, painter, progress=Interrupter(COUNT, interrupt))
    assert restyle(clip, target, painter, resume=True).frames == COUNT
    assert facts(target)["times"] == facts(clip)["times"]


def test_interrupted_before_the_first_frame(tmp_path: Path, clip: Path, painter: Stylizer) -> None:
    def at_once(stage: str, total: int | None) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        restyle(clip, tmp_path / "out.mp4", painter, progress=at_once)
    assert not isinstance(caught.value, Stopped)
    assert not list(tmp_path.iterdir())


# Folders


def test_folders(tmp_path: Path, painter: Stylizer, photographer: Stylizer) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for index, frame in enumerate(frames(12)):
        Image.fromarray(frame).save(source / f"f{index}.bmp")  # f10 comes after f9
    (source / "notes.txt").write_text("no frame")
    target = tmp_path / "out"
    report = restyle(source, target, photographer)
    assert (report.frames, report.size, report.scenes) == (12, (96, 64), 1)
    look = photographer.look([np.array(Image.open(source / f"f{k}.bmp")) for k in (0, 6)])
    for index, frame in enumerate(frames(12)):
        got = np.array(Image.open(target / f"f{index}.png")).astype(int)
        assert np.abs(got - look(frame)).mean() < 3
    with pytest.raises(VideoError, match=r"f0.png exists already: --resume keeps it"):
        restyle(source, target, painter)
    kept = (target / "f3.png").read_bytes()
    (target / "f4.png").unlink()
    restyle(source, target, painter, resume=True)
    assert (target / "f3.png").read_bytes() == kept
    assert (target / "f4.png").exists()
    for bad, sentence in {
        source: "output must be another folder than the source",
        source / "f0.bmp": "output must be a folder for a folder of pictures",
    }.items():
        with pytest.raises(VideoError, match=sentence):
            restyle(source, bad, painter)
    with pytest.raises(VideoError, match="codec and crf must be given with a video file"):
        restyle(source, tmp_path / "new", painter, crf=20)
    with pytest.raises(VideoError, match="output must be a folder for a folder of pictures"):
        restyle(source, tmp_path / "new.mp4", painter)
    Image.fromarray(frames(1)[0]).save(source / "f1.png")
    with pytest.raises(VideoError, match=r"one picture per number, got two for f1\.png"):
        restyle(source, tmp_path / "new", painter)
    assert not (tmp_path / "new").exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(VideoError, match="must contain numbered pictures, got none"):
        restyle(empty, tmp_path / "new", painter)


# The command


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["video", *map(str, arguments)])


def test_command(tmp_path: Path, clip: Path, reference: Picture) -> None:
    images.write(reference, tmp_path / "ref.png")
    style = ["--style", tmp_path / "ref.png", "--weights", "tiny"]
    target = tmp_path / "out.mp4"
    result = run(clip, *style, "--photoreal", "-o", target, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["frames"], found["size"], found["scenes"]) == (COUNT, [96, 64], 1)
    assert f"{target}: {COUNT} frames of 96 x 64 in 1 scene, " in result.stderr
    result = run(clip, *style, "-o", target, "--force", "--steadiness", 0.5, "--crf", 30)
    assert result.exit_code == 0, result.output
    assert "restyling, frames per second" in result.stderr
    result = run(clip, *style, "--photoreal", "--hold", "flow", "-o", target, "--force")
    assert result.exit_code == 0, result.output


def test_command_raises(tmp_path: Path, clip: Path, reference: Picture) -> None:
    images.write(reference, tmp_path / "ref.png")
    style = ["--style", tmp_path / "ref.png", "--weights", "tiny", "-o", tmp_path / "out.mp4"]
    for options, sentence in {
        ("--hold", "flow"): "--hold must be given with --photoreal",
        ("--photoreal", "--steadiness", "0.5"): "--steadiness must be given with --hold flow",
        ("--photoreal", "--no-refine"): "--no-refine must be given with --hold flow",
        ("--photoreal", "--brush", "2"): "--brush must be given without --photoreal",
        ("--force", "--resume"): "--resume must be given without --force",
        ("--steadiness", "1"): "steadiness must be in [0, 1), got 1.0",
        ("--codec", "x"): "codec must be an encoder of FFmpeg, got 'x'",
    }.items():
        result = run(clip, *style, *options)
        assert result.exit_code == 2
        assert sentence in result.stderr
        assert not (tmp_path / "out.mp4").exists()


def test_command_without_the_extra(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("fastfcs.video")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "av", None)
    result = run(clip, "--style", "x.png", "-o", tmp_path / "out.mp4")
    assert result.exit_code == 2
    assert "which pip install 'fastfcs[video]' installs" in result.stderr
