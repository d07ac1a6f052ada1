"""The grading of looks: its statistics, its training, and how near it comes to known edits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import load_photo, noise
from PIL import Image
from safetensors.torch import save_file
from scipy.linalg import sqrtm
from torch import Tensor

from fastfcs.grading import Appearance, Grading, load_grading, save_grading
from fastfcs.images import to_samples
from fastfcs.stylizer import Stylizer
from fastfcs.training.grading import random_edits, train_grading


def appearance_of(colours: Tensor, channels: int = 8) -> Appearance:
    """Of colours (B, n, 3); the energies are arbitrary."""
    covariance = torch.stack([each.T.cov(correction=0) for each in colours])
    return Appearance(colours.mean(1), covariance, torch.ones(len(colours), channels))


def test_an_untrained_grading_is_the_transport_of_normal_distributions() -> None:
    """Against SciPy; of the luma 0.35 are taken, of the chroma 0.6."""
    before, after = noise(2, 50, 3).double(), (0.5 * noise(2, 60, 3, seed=2) ** 2).double()
    grading = Grading(channels=8, components=4).double()
    given = appearance_of(before), appearance_of(after)
    moved = grading(before, *(Appearance(*(part.double() for part in each)) for each in given))
    for k in range(2):
        a, b = (each.covariance[k].double().numpy() + 1e-5 * np.eye(3) for each in given)
        root = sqrtm(a)
        inverse = np.linalg.inv(root)
        transport = inverse @ sqrtm(root @ b @ root) @ inverse
        np.testing.assert_allclose(transport @ a @ transport, b, atol=1e-10)
        colours = before[k].numpy()
        want = (colours - colours.mean(0)) @ transport + after[k].numpy().mean(0) - colours
        y = (want @ [0.299, 0.587, 0.114])[:, None]
        np.testing.assert_allclose(
            moved[k].detach().numpy(), 0.35 * y + 0.6 * (want - y), atol=1e-6
        )


def test_joint_appearance_is_that_of_all_colours() -> None:
    colours = noise(3, 40, 3)
    each = [appearance_of(colours[k : k + 1]) for k in range(3)]
    joint, whole = Appearance.joint(each), appearance_of(colours.reshape(1, -1, 3))
    for a, b in zip(joint, whole, strict=True):
        torch.testing.assert_close(a, b)


def test_appearance_of_statistics() -> None:
    photo = load_photo("coffee", 128).float()
    statistics = Stylizer(photo, weights="tiny", refine=True).statistics.get()[0]
    found, want = Appearance.of(statistics), appearance_of(photo.flatten(2).mT)
    torch.testing.assert_close(found.mean, want.mean, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.covariance, want.covariance, atol=1e-4, rtol=0)
    assert found.energies.shape == (1, 704)


def test_random_edits_are_one_edit_per_picture() -> None:
    """Equal colours stay equal, and pictures are edited differently."""
    photo = noise(1, 100, 3).expand(4, -1, -1)
    twice = torch.cat([photo, photo.flip(1)], 1)
    edited = random_edits(twice, torch.Generator().manual_seed(0))
    first, second = edited.chunk(2, 1)
    torch.testing.assert_close(first, second.flip(1))
    assert (first[0] - first[1]).abs().mean() > 0.02
    assert edited.min() >= 0
    assert edited.max() <= 1


def test_training_is_reproducible_and_learns(tmp_path: Path) -> None:
    photos = [tmp_path / f"{name}.png" for name in ("chelsea", "coffee", "rocket")]
    for path in photos:
        Image.fromarray(to_samples(load_photo(path.stem, 160)[0].float(), 8)).save(path)
    short_options = {"crops": 1, "components": 2, "steps": 20, "shown": False}
    options = {"crops": 4, "components": 8, "shown": False}
    files = [tmp_path / f"{k}.safetensors" for k in range(4)]
    short, again = (
        train_grading(given, files[k], **short_options)
        for k, given in enumerate((photos, tmp_path))
    )
    torch.testing.assert_close(short.state_dict(), again.state_dict(), rtol=0, atol=0)
    trained = train_grading(photos, files[2], steps=300, **options)
    untrained = train_grading(photos, files[3], steps=1, lr=0.0, **options)

    colours = load_photo("coffee", 128).float().flatten(2).mT
    edited = random_edits(colours.expand(64, -1, -1), torch.Generator().manual_seed(5))
    energies = untrained.centre[:1].exp().expand(64, -1)
    before = appearance_of(colours)._replace(energies=energies[:1])
    before = Appearance(*(part.expand(64, *part.shape[1:]) for part in before))
    after = appearance_of(edited)._replace(energies=energies)
    errors = [
        (colours + grading(colours.expand(64, -1, -1), before, after) - edited).square().mean()
        for grading in (trained, untrained)
    ]
    assert errors[0] < 0.8 * errors[1]


def test_a_file_holds_a_grading(tmp_path: Path) -> None:
    grading = Grading(channels=8, components=4, width=16).eval()
    torch.nn.init.normal_(grading.layers[-1].weight)
    save_grading(grading, tmp_path / "a.safetensors")
    again = load_grading(tmp_path / "a.safetensors")
    colours = noise(1, 50, 3)
    given = appearance_of(colours), appearance_of(colours**2)
    assert (again(colours, *given) - grading(colours, *given)).abs().max() < 2e-3
    with pytest.raises(FileNotFoundError):
        load_grading(tmp_path / "b.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="path must be a file of a grading, got"):
        load_grading(tmp_path / "c.safetensors")


def test_too_few_pictures(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="components must be below the number of samples, 0, got"):
        train_grading([], tmp_path / "a.safetensors")


def test_equal_appearances_move_nothing() -> None:
    """Whatever was learned, the transport alone is left, which is then the identity."""
    appearance = appearance_of(noise(2, 50, 3), channels=704)
    moved = load_grading()(noise(2, 20, 3), appearance, appearance)
    assert moved.abs().max() < 1e-5
