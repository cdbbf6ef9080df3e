"""``star-edge pack`` from Python: a bundle as one file, with test clips if wanted, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from runtime.archive import CLIPS, SUFFIX
from runtime.bundle import Bundle
from runtime.errors import InputError
from runtime.pack import unpack, write_pack
from runtime.packed_clips import clips_to_bytes, read_packed_clips
from star_edge import __version__
from star_edge.data.recorded import Recorded, open_recorded

if TYPE_CHECKING:
    from star_edge.data.dataset import Dataset

SCHEMA = "star-edge/pack/1"


class PackReport(msgspec.Struct, frozen=True, kw_only=True):
    """The document of ``star-edge pack --json``.

    Attributes:
        made: the file, or with ``--unpack`` the folder. source: what it was made from.
        files: names in it. bytes: its size, of a folder the sum.
        clips: test clips in it. terms: what the owner of their recordings allows.
        outdated: reports left out because they were made from another state of the bundle.
    """

    star_edge_version: str = __version__
    made: str
    source: str
    bundle_id: str
    files: tuple[str, ...]
    bytes: int
    clips: int = 0
    terms: str = ""
    outdated: tuple[str, ...] = ()
    schema: str = SCHEMA


def pack_bundle(
    path: Path,
    out: Path | None = None,
    *,
    clips: Path | None = None,
    split: str | None = None,
    samples: int = 128,
    seed: int = 0,
    reports: bool = False,
    force: bool = False,
) -> PackReport:
    """Write the bundle at ``path`` as one file.

    Args:
        path: the bundle's folder.
        out: the file ``*.star.zip``; the bundle's name with ``.zip``, in the working directory, if None.
        clips: a dataset folder or ``.npz`` file whose test clips are packed too.
        split: scheme; default: the one the model was trained under, else the dataset's own default.
        samples: at most so many clips, drawn with ``seed``.
        reports: also pack the reports made from the bundle as it is.
        force: replace ``out``.

    Raises InputError (already packed, ``out`` exists, no clips), MismatchError (files or data that do not fit), OSError.
    """
    bundle = Bundle.open(path)
    bundle.require_folder("pack")
    out = Path(f"{path.resolve().name.removesuffix('.star')}{SUFFIX}") if out is None else out
    _check_target(out, force)
    packed, count, terms = _clips(bundle, clips, split, samples, seed) if clips else (None, 0, "")
    made = write_pack(bundle, out, clips=packed, reports=reports)
    assert made.archive is not None
    return PackReport(
        made=str(out),
        source=str(path),
        bundle_id=made.manifest.bundle_id,
        files=made.archive.names,
        bytes=out.stat().st_size,
        clips=count,
        terms=terms,
        outdated=tuple(report.name for report in bundle.reports() if not report.current) if reports else (),
    )


def unpack_bundle(path: Path, out: Path | None = None) -> PackReport:
    """Make the folder of a packed bundle; ``out`` is its name without ``.zip``, in the working directory, if None.

    Raises as :func:`runtime.pack.unpack`.
    """
    out = Path(f"{path.name.removesuffix(SUFFIX).removesuffix('.star').removesuffix('.zip')}.star") if out is None else out
    made = unpack(path, out)
    files = sorted(file for file in out.rglob("*") if file.is_file())
    return PackReport(
        made=str(out),
        source=str(path),
        bundle_id=made.manifest.bundle_id,
        files=tuple(file.relative_to(out).as_posix() for file in files),
        bytes=sum(file.stat().st_size for file in files),
        clips=0 if made.sidecar(CLIPS) is None else len(read_packed_clips(made).clips),
    )


def _check_target(out: Path, force: bool) -> None:
    """Raise InputError unless a file may be written at ``out``."""
    if not out.parent.is_dir():
        raise InputError("no folder to write the packed bundle into", where=out.parent, hint=f"mkdir -p {out.parent}")
    if not out.name.endswith(SUFFIX):
        raise InputError("a packed bundle needs the name of one", where=out, expected=f"NAME{SUFFIX}, by which it is known",
                         hint=f"--out {out.with_name(out.name.split('.')[0] + SUFFIX)}")  # fmt: skip
    if out.is_dir():
        raise InputError("a folder is in the way", where=out, expected="a file name", hint="choose another name with --out")
    if out.exists() and not force:
        raise InputError("the packed bundle exists", where=out, hint="--force replaces it; --out keeps it")


def _clips(bundle: Bundle, source: Path, split: str | None, samples: int, seed: int) -> tuple[bytes, int, str]:
    """The ``.npz`` of test clips, how many they are, and the terms of their recordings."""
    manifest = bundle.manifest
    data: Dataset = open_recorded(Recorded.in_bundle(manifest), source, "pack")
    scheme = split or (manifest.source.split if manifest.source.split in data.meta.splits else data.meta.default_split)
    indices = data.indices(scheme, "test")
    if not len(indices):
        raise InputError("no clips to pack", where=source, found=f"split '{scheme}' has no test clips", expected="at least one",
                         hint="choose another --split")  # fmt: skip
    if samples < len(indices):
        indices = np.sort(np.random.default_rng(seed).choice(indices, samples, replace=False))
    clips = [data.clip(int(index)) for index in indices]
    return clips_to_bytes(clips, data.labels[indices], data.meta.class_names), len(clips), data.meta.terms
