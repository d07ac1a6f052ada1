"""Files are complete or absent, and errors name the file that was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fastfcs.files import atomic, save_tensors, write_text


def test_a_failure_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_text(path, "old")

    def fail() -> None:
        with atomic(path) as partial:
            partial.write_text("half of the n")
            assert path.read_text() == "old\n"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    for value in (1.0, 2.0):
        save_tensors({"x": torch.full((2, 3), value).T}, path, {})
        assert load_file(path)["x"].tolist() == [[value, value]] * 3
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "report.json"
    with pytest.raises(FileNotFoundError) as caught:
        write_text(path, "text")
    assert caught.value.filename == str(path)


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250 + ".json")
    write_text(path, "text")
    assert path.read_text() == "text\n"


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "report.json", tmp_path / "link.json"
    if exists:
        write_text(target, "old")
    link.symlink_to("there/report.json")
    with atomic(link) as partial:
        assert partial.parent == target.parent.resolve()  # a rename within one file system
        partial.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == link.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_an_error_names_the_link(tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to("gone/report.json")
    with pytest.raises(FileNotFoundError) as caught:
        write_text(link, "text")
    assert caught.value.filename == str(link)
    assert link.is_symlink()
