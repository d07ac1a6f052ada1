"""Frames that hold together: flow, sequences, scenes, against clips whose motion is known."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from clips import Clip, make_clip
from numpy.typing import NDArray
from pictures import load_photo, noise
from PIL import Image
from torch import Tensor

from fastfcs.constraints.registry import BetweenUpdates
from fastfcs.evaluation.warping import warping_error
from fastfcs.images import Picture
from fastfcs.look import Look, representatives
from fastfcs.network import UnrolledSolver
from fastfcs.stylizer import Stylizer
from fastfcs.video import Motion, Sequence
from fastfcs.video.scenes import Looks, calmed, find_scenes
from fastfcs.video.sequence import Hold

SIZE = (180, 320)


def photo(name: str, side: int = 512) -> Tensor:
    return load_photo(name, side)[0].float()


def clip(move: str, count: int = 8, **options: float) -> Clip:
    return make_clip(photo("rocket"), move, count, SIZE, moving=photo("chelsea"), **options)


@pytest.fixture(scope="module")
def painter() -> Stylizer:
    return Stylizer(
        photo("coffee", 256),
        weights="tiny",
    )


# Flow


@pytest.mark.parametrize("move", ["still", "pan", "zoom", "rotation"])
def test_motion_is_the_known_one(move: str) -> None:
    """Where it is trusted, and it is not trusted where something was hidden."""
    frames, motions = clip(move)
    for (before, now), known in zip(pairwise(frames), motions[1:], strict=True):
        assert known is not None
        found = Motion.between(before, now)
        error = (found.flow - known.flow).norm(dim=1, keepdim=True)
        both = (found.trust > 0.5) & (known.trust > 0.5)
        assert error[both].median() < 0.3
        assert both.sum() > 0.7 * known.trust.sum()
        assert found.trust.mean() > 0.8


def test_what_was_hidden_is_not_trusted() -> None:
    """A square moves over a still picture: the strip that it uncovers was not seen before."""
    ground = photo("rocket", 320)[:, :160, :240]
    square = photo("chelsea", 320)[:, 40:120, 60:140]
    frames = []
    for left in (60, 72):
        frame = ground.clone()
        frame[:, 40:120, left : left + 80] = square
        frames.append((255 * frame).byte().movedim(0, -1).numpy())
    trust = Motion.between(*frames).trust[0, 0]
    assert trust[46:114, 61:71].mean() < 0.25
    assert trust[:30].mean() > 0.95
    assert trust[50:110, 82:140].mean() > 0.9


def test_changed_light_is_not_trusted() -> None:
    frames, _ = clip("still", 2, noise=0.0)
    dark = (0.5 * frames[1]).astype(np.uint8)
    bright = frames[1].mean(-1) > 100
    assert Motion.between(frames[0], frames[1]).trust[0, 0].numpy()[bright].mean() > 0.8
    assert Motion.between(frames[0], dark).trust[0, 0].numpy()[bright].mean() < 0.1


def test_motion_at_other_sizes() -> None:
    _, motions = clip("pan", 2)
    motion = motions[1]
    assert motion is not None
    half = motion.at((90, 160))
    assert half.flow.shape[-2:] == half.trust.shape[-2:] == (90, 160)
    still = motion.trust[0, 0] > 0
    torch.testing.assert_close(
        half.flow[0, :, 2, 2], motion.flow[0, :, 4, 4] / 2, atol=0.05, rtol=0.05
    )
    assert motion.at(SIZE) is motion
    assert still.any()


def test_flow_of_another_shape() -> None:
    frame = np.zeros((24, 32, 3), np.uint8)

    def wrong(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.zeros((24, 32), np.float32)

    with pytest.raises(ValueError, match=r"flow must return an array \(24, 32, 2\), got shape"):
        Motion.between(frame, frame, wrong)


def test_warping_error() -> None:
    """Of noise alone: the noise of two frames, a little less where bicubic resampling blurs."""
    for move in ("still", "pan"):
        frames, motions = clip(move, 4, noise=5.0)
        error = warping_error(frames, motions)
        assert 0.7 * 2**0.5 * 5 / 255 < error < 1.6 * 2**0.5 * 5 / 255
    assert warping_error(frames[:1], motions[:1]) == 0


# Sequences


def gram_distance(stylizer: Stylizer, frame: NDArray[np.uint8]) -> float:
    image = torch.from_numpy(frame).movedim(-1, 0)[None] / 255
    grams = stylizer.solver.statistics(image).own
    targets = stylizer.statistics.get()
    assert targets is not None
    pairs = zip(grams, targets[-1].own, strict=True)
    return sum(((g - h).norm() / h.norm()).item() for g, h in pairs)


@pytest.mark.slow
@pytest.mark.parametrize(("move", "share"), [("pan", 0.4), ("rotation", 1 / 3)])
def test_paintings_are_steady(painter: Stylizer, move: str, share: float) -> None:
    """A third of frame by frame, at most, and no farther from the style than 10 %.

    More where something crosses a small frame fast, since much of it is then painted afresh.
    """
    frames, motions = clip(move, 14)
    sequence = Sequence(painter)
    alone, held = [painter(frame) for frame in frames], [sequence(frame) for frame in frames]
    # Counted from the fifth frame on: the first is not held, and the next ones only begin to be.
    assert warping_error(held[4:], motions[4:]) < share * warping_error(alone[4:], motions[4:])
    distances = (
        np.mean([gram_distance(painter, frame) for frame in each[5:]]) for each in (held, alone)
    )
    assert next(distances) < 1.1 * next(distances)
    # No ghosts: it stays as near to the content's edges as a single frame does.
    for x, y in zip(alone[5:], held[5:], strict=True):
        assert np.abs(x.astype(float) - y).mean() < 25


def test_still_pictures_are_fixed_points(painter: Stylizer) -> None:
    """Without noise or motion the painting is that of the picture, for any steadiness."""
    frame = clip("still", 1).frames[0]
    sequence = Sequence(painter, steadiness=0.97)
    for _ in range(3):
        result = sequence(frame)
    assert np.abs(result.astype(int) - painter(frame)).mean() < 0.6  # iterates are kept as halves


def test_photographs_along_the_flow() -> None:
    stylizer = Stylizer(photo("coffee", 128), weights="tiny", constraint="photoreal", refine=False)
    frames, motions = clip("pan", 6, noise=4.0)
    sequence = Sequence(stylizer)
    alone, held = [stylizer(frame) for frame in frames], [sequence(frame) for frame in frames]
    assert warping_error(held, motions) < 0.95 * warping_error(alone, motions)
    assert np.abs(held[0].astype(int) - alone[0]).mean() < 3
    assert held[-1].dtype == np.uint8


def test_a_cut_begins_anew(painter: Stylizer) -> None:
    first, second = (
        clip("still", 1).frames[0],
        make_clip(photo("coffee"), "still", 1, SIZE).frames[0],
    )
    sequence = Sequence(painter)
    sequence(first)
    assert np.array_equal(sequence(second), painter(second))
    sequence.restart()
    assert np.array_equal(sequence(first), painter(first))
    small = np.ascontiguousarray(first[:64])
    assert np.array_equal(sequence(small), painter(small))
    assert np.array_equal(Sequence(painter, steadiness=0)(first), painter(first))


def test_kinds_of_frames(painter: Stylizer) -> None:
    frame = clip("still", 1).frames[0]
    deep = Picture(torch.from_numpy(frame).movedim(-1, 0).to(torch.uint16) * 257, depth=16)
    alpha = torch.ones(SIZE)
    alpha[:20] = 0
    for kind in (
        Image.fromarray(frame),
        deep,
        Picture(deep.samples, alpha, depth=16),
        torch.from_numpy(frame).movedim(-1, 0) / 255,
    ):
        sequence = Sequence(painter)
        results = [sequence(kind) for _ in range(2)]
        assert type(results[1]) is type(kind)
        assert getattr(results[1], "size", None) == getattr(kind, "size", None) or isinstance(
            kind, Tensor
        )


def test_what_sequences_raise(painter: Stylizer) -> None:
    for steadiness in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"steadiness must be in \[0, 1\)"):
            Sequence(painter, steadiness=steadiness)
    with pytest.raises(TypeError, match="stylizer must be a Stylizer, got str"):
        Sequence("the-scream")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frame must be a single image, got a batch of 2"):
        Sequence(painter)(noise(2, 3, 32, 48))
    parts = painter.constraint
    sequence = Sequence(painter)
    sequence(noise(3, 32, 48))
    painter.constraint = [lambda x: x[:, :2]]  # of the wrong shape
    try:
        with pytest.raises(ValueError, match="constraint must return a tensor of X's shape"):
            sequence(noise(3, 32, 48))
        assert len(painter.constraint) == 1
    finally:
        painter.constraint = parts


def test_constraints_across_scales() -> None:
    """With `at_scale` a constraint acts at every scale and X^(0); other callables at the last."""
    sizes: list[tuple[int, int]] = []

    class Everywhere:
        def __call__(self, x: Tensor) -> Tensor:
            sizes.append((x.shape[-2], x.shape[-1]))
            return x

        def at_scale(self, size: tuple[int, int]) -> Everywhere:
            return self

    torch.manual_seed(0)
    stylizer = Stylizer(noise(3, 64, 64), weights=UnrolledSolver(updates=2, channels=(8, 8)))
    content = noise(3, 128, 256)
    want = stylizer(content)
    stylizer.constraint = Everywhere()
    # X^(0), two updates, and the scale's end; X is also clipped after every update.
    assert stylizer(content).shape == want.shape
    assert sizes == [(64, 128)] * 4 + [(128, 256)] * 4
    between = BetweenUpdates((), content[None])
    assert torch.equal(between.begin(content[None]), content[None])


def test_hold() -> None:
    still = Motion(torch.zeros(1, 2, *SIZE), torch.ones(1, 1, *SIZE))
    x, changed = noise(1, 3, *SIZE), noise(1, 3, *SIZE, seed=2)
    changed[..., 160:] += 1  # by more than strokes
    before, now = {SIZE: [x]}, {}
    hold = Hold(still, 0.5, before, now)
    held = hold(changed)
    torch.testing.assert_close(held[..., 170:], changed[..., 170:], atol=1e-6, rtol=0)
    share = (held - changed)[..., :150].norm() / (x - changed)[..., :150].norm()
    assert 0.4 < share < 0.5
    assert torch.equal(hold(changed), changed)  # there was no second one
    assert len(now[SIZE]) == 2
    smaller = hold.at_scale((48, 80))
    assert smaller(torch.ones(1, 3, 48, 80)).mean() == 1
    assert len(now[48, 80]) == 1


# Scenes


def scenes_of(pictures: list[Tensor]) -> list[int]:
    frames: list[Callable[[int], Picture]] = [
        lambda side, picture=picture: Picture(picture) for picture in pictures
    ]
    return [scene.start for scene in find_scenes(frames)]


def thumbnails(name: str, count: int, shift: int = 0) -> list[Tensor]:
    small = load_photo(name, 64)[0].float()[:, :24, :60]
    return [small.roll(shift * index, -1) for index in range(count)]


def test_scenes() -> None:
    rocket, coffee = thumbnails("rocket", 10), thumbnails("coffee", 10)
    assert scenes_of(rocket + coffee) == [0, 10]
    assert scenes_of(rocket + coffee + rocket) == [0, 10, 20]
    assert scenes_of(rocket[:1] + coffee) == [0, 1]
    assert scenes_of(rocket + coffee[:1]) == [0, 10]
    assert scenes_of(rocket) == [0]
    assert scenes_of([]) == []


def test_no_scenes() -> None:
    """Flashes, fast pans, things that pass and dissolves are no cuts."""
    rocket, coffee = thumbnails("rocket", 10), thumbnails("coffee", 10)
    white = [torch.ones(3, 24, 60)] * 2
    assert scenes_of(rocket + white + rocket) == [0]
    assert scenes_of(thumbnails("rocket", 20, shift=2)) == [0]
    passing = [picture.clone() for picture in rocket]
    for index in range(3, 8):
        passing[index][:, :, 10 * index - 30 : 10 * index - 15] = 0.3
    assert scenes_of(passing) == [0]
    dissolve = [torch.lerp(rocket[0], coffee[0], k / 30) for k in range(31)]
    assert scenes_of(rocket + dissolve + coffee) == [0]


def test_scenes_of_any_length_take_little_memory() -> None:
    asked = 0

    def frame(side: int) -> Picture:
        nonlocal asked
        asked += side > 32
        return Picture(torch.full((3, 18, 32), 0.5))

    (scene,) = find_scenes([frame] * 2000)
    assert asked < 150
    assert len(scene.pictures) == 1  # they are all alike


def test_representatives() -> None:
    greys = [0.5, 0.1, 0.9, 0.5, 0.505]
    series = [Picture(torch.full((3, 16, 24), grey)) for grey in greys]
    assert representatives(series, 9) == [0, 1, 2]
    assert representatives(series, 1) == [0]


@pytest.mark.parametrize("contrast", [0.7, 1.0, 1.5, 2.5])
def test_looks_do_not_amplify(contrast: float) -> None:
    """A harsh look is calmed as far as necessary, and a gentle one is left as it is."""
    picture = Picture(0.2 + 0.6 * photo("chelsea", 128))
    tint = torch.tensor([0.05, 0.0, -0.05]).view(3, 1, 1, 1)
    look = Look(contrast * (Look.identity().grid - 0.5) + 0.5 + tint)
    calm = calmed(look, [picture])
    if contrast <= 1:
        assert calm is look
        return
    frames = [picture.pixels + 0.01 * noise(*picture.samples.shape, seed=k) for k in range(2)]
    before, after = frames, [calm.map(frame) for frame in frames]
    gain = (after[0] - after[1]).norm() / (before[0] - before[1]).norm()
    assert gain < 1.08
    # Its mean colour is that of the look.
    means = (each.map(picture.pixels).mean((1, 2)) for each in (calm, look))
    torch.testing.assert_close(next(means), next(means), atol=0.02, rtol=0)


def test_looks() -> None:
    looks = [Look.identity(points) for points in (2, 3, 4)]
    found = Looks([0, 10, 11], looks)
    assert [found.of(index).points for index in (0, 9, 10, 11, 500)] == [2, 2, 3, 4, 4]
