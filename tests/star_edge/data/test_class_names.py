"""Class names by a list's name, from a text file and from a dataset."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import InputError
from star_edge.data.class_names import get_class_names
from star_edge.data.dataset import Dataset


def test_known_lists() -> None:
    assert [len(get_class_names(name)) for name in ("ntu60", "ntu120")] == [60, 120]
    assert get_class_names("ntu120")[:60] == get_class_names("ntu60")


def test_a_line_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("wave hand\n  sit down \n\nrün\n", encoding="utf-8")
    assert get_class_names(str(tmp_path / "names.txt")) == ("wave hand", "sit down", "rün")


def test_those_of_a_dataset(tiny_dataset: Path) -> None:
    assert get_class_names(str(tiny_dataset)) == Dataset.open(tiny_dataset).meta.class_names


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"wave\nsit\nwave\n", "two classes of one name"), (b"\xff\xfe", "cannot read"), (None, "unknown list")],
)
def test_what_is_no_list_is_refused(tmp_path: Path, content: bytes | None, part: str) -> None:
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(InputError, match=part):
        get_class_names(str(tmp_path / "names.txt"))
