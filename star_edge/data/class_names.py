"""Names of classes by the name of a known list, from a text file, or from a dataset."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import InputError
from star_edge.data.convert import open_dataset
from star_edge.data.dataset import is_dataset
from star_edge.data.ntu_actions import NTU_ACTIONS
from star_edge.data.splits import NTU60_ACTIONS

CLASS_LISTS: dict[str, tuple[str, ...]] = {"ntu60": NTU_ACTIONS[:NTU60_ACTIONS], "ntu120": NTU_ACTIONS}


def get_class_names(name_or_path: str) -> tuple[str, ...]:
    """A known list, the lines of a text file, or the classes of a dataset folder or .npz file; InputError when it is none of these."""
    if name_or_path in CLASS_LISTS:
        return CLASS_LISTS[name_or_path]
    path = Path(name_or_path)
    if is_dataset(path) or (path.suffix == ".npz" and path.is_file()):
        return open_dataset(path).meta.class_names
    if not path.is_file():
        raise InputError(
            f"unknown list of classes '{name_or_path}'",
            expected=f"one of {', '.join(CLASS_LISTS)}, a text file with a name a line, or a dataset",
        )
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise InputError("cannot read the list of classes", where=path, found=error.reason, expected="UTF-8 text") from None
    doubled = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if doubled is not None:
        raise InputError(
            "two classes of one name", where=path, found=doubled, expected="a name a line, in the order of the logits"
        )
    return names
