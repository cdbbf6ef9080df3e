"""Recordings to one packed dataset folder: streamed, in parallel, all or nothing, and nothing left out without a reason."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from runtime.clip import Clip
from runtime.errors import InputError
from runtime.readers.ntu import Recording
from runtime.skeleton import Skeleton
from star_edge.data.dataset import Dataset, DatasetMeta, Skipped, is_dataset
from star_edge.data.joint_map import JointMap, map_joints
from star_edge.data.sources import Problem, Source, open_source
from star_edge.data.writer import DatasetWriter
from star_edge.skeletons import get_skeleton

log = logging.getLogger(__name__)

SKIP_LISTED = "on the skip list"
_FILE_SUFFIXES = (".skeleton", ".json", ".npy")  # of files that hold one clip
Track = Callable[..., Iterable[Any]]  # (items, description, total) -> the same items, with a progress bar


def convert(
    source: str | Path,
    out: str | Path,
    *,
    split: str | None = None,
    workers: int = 1,
    skip: Collection[str] = (),
    on_error: Literal["skip", "fail"] = "skip",
    skeleton: str | None = None,
    to_skeleton: str | None = None,
    min_frames: int = 1,
    force: bool = False,
    track: Track | None = None,
) -> DatasetMeta:
    """Convert recordings of any kind that :func:`star_edge.data.sources.open_source` knows to a dataset folder.

    The result does not depend on ``workers``. Until it is complete, nothing stands under the name ``out``.

    Args:
        source, out: where from and where to.
        split: default scheme recorded in ``meta.json``; else the source's own.
        workers: processes that read files.
        skip: names of recordings to leave out, recorded as such.
        on_error: what a recording that cannot be used does: it is recorded and skipped, or ends the conversion.
        skeleton: layout name or .json file where the source cannot tell.
        to_skeleton: layout name or .json file to bring the joints to; see :func:`star_edge.data.joint_map.map_joints`.
        min_frames: fewest rows the longest tracked person must have; below, the recording counts as incomplete.
        force: replace a dataset folder that stands at ``out``.
        track: wraps the iteration for a progress bar.

    Raises InputError when nothing usable is left, for an unknown ``split``, and as the readers do.
    """
    source, out = Path(source), Path(out)
    if is_dataset(source):
        raise InputError(
            "this is a dataset folder already", where=source, expected="recordings", hint=f"star-edge data info {source}"
        )
    recordings = open_source(source, skeleton)
    layout = recordings.info.skeleton
    mapping = _mapping(layout, to_skeleton) if to_skeleton else None
    layout = mapping.target if mapping else layout
    with DatasetWriter(out, layout.num_joints, force=force) as writer:
        skipped: list[Skipped] = []
        kept: list[int] = []
        dropped_rows = dropped_persons = 0

        def leave_out(file: str, problem: Problem) -> None:
            if on_error == "fail":
                raise problem.error("repair or remove it, list it in --skip-list, or use --on-error skip")
            entry = Skipped(file, problem.what, _detail(problem))
            log.warning("skipped %s: %s (%s)", file, entry.reason, entry.detail)
            skipped.append(entry)

        for file, problem in recordings.rejected:
            leave_out(file, problem)
        wanted = _without_listed(recordings, skip, skipped)
        results: Iterable[Recording | Problem] = recordings.read(wanted, workers)
        if track is not None:
            results = track(results, "reading", len(wanted))
        for entry, result in zip(wanted, results, strict=True):
            name = recordings.names[entry]
            if mapping and isinstance(result, Recording):
                result = _mapped(result, mapping)
            if isinstance(result, Recording) and max(result.clip.person_lengths) < min_frames:
                result = Problem(
                    "too few frames with a body", name, str(max(result.clip.person_lengths)), f"at least {min_frames}"
                )
            if isinstance(result, Problem):
                leave_out(name, result)
                continue
            writer.append(result.clip, name, int(recordings.labels[entry]), int(recordings.subjects[entry]))
            kept.append(entry)
            dropped_rows += result.clip.dropped
            dropped_persons += result.persons - len(result.clip.person_lengths)
        if not kept:
            reasons = sorted({entry.reason for entry in skipped})
            raise InputError(
                "no usable recording",
                where=source,
                found=f"{len(skipped)} skipped: {', '.join(reasons)}",
                expected="at least one",
            )
        splits = recordings.splits(np.array(kept))
        default = split or next(iter(splits))
        if default not in splits:
            raise InputError(f"no split '{default}'", where=source, found=default, expected=", ".join(splits))
        info = msgspec.structs.replace(recordings.info, skeleton=layout)
        return writer.commit(info, splits, default, skipped, dropped_rows, dropped_persons)


def open_dataset(path: str | Path, *, skeleton: str | None = None, track: Track | None = None) -> Dataset:
    """A dataset folder; or recordings of any kind that :func:`convert` takes, converted on the fly.

    The conversion is that of :func:`convert`, into a temporary folder whose files vanish with the returned object.
    """
    path = Path(path)
    if is_dataset(path):
        return Dataset.open(path)
    with tempfile.TemporaryDirectory(prefix="star-edge-") as folder:
        converted = Path(folder) / "dataset"
        convert(path, converted, skeleton=skeleton, track=track)
        return Dataset.open(converted, temporary=True)  # its memory map keeps the deleted file readable


def read_skip_list(path: str | Path) -> frozenset[str]:
    """Names of recordings, one a line, with or without ``.skeleton``, ``.json`` or ``.npy``; blank lines and lines from ``#`` are comments."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot read the skip list", where=path, found=error, expected="text, one name a line") from None
    names = (line.split("#")[0].strip() for line in lines)
    return frozenset(_without_suffix(name) for name in names if name)


def _without_suffix(name: str) -> str:
    suffix = next((suffix for suffix in _FILE_SUFFIXES if name.endswith(suffix)), "")
    return name.removesuffix(suffix)


def _mapping(source: Skeleton, to_skeleton: str) -> JointMap | None:
    """The map to another layout; None for the same one."""
    target = get_skeleton(to_skeleton)
    if target == source:
        return None
    mapping = map_joints(source, target)
    if mapping.lost:
        log.warning("%d of %d joints of %s are not in %s and stay lost: %s", len(mapping.lost), target.num_joints, target.name,
                    source.name, ", ".join(mapping.lost))  # fmt: skip
    return mapping


def _mapped(recording: Recording, mapping: JointMap) -> Recording | Problem:
    """The recording in another layout; rows that have no joint there are dropped and counted."""
    clip = recording.clip
    persons = np.split(mapping(clip.joints), np.cumsum(clip.person_lengths)[:-1])
    try:
        mapped = Clip.from_persons(persons, clip.name)
    except InputError as error:
        return Problem.of(error)
    return Recording(Clip(mapped.joints, mapped.person_lengths, clip.name, clip.dropped + mapped.dropped), recording.frames,
                     recording.persons)  # fmt: skip


def _without_listed(recordings: Source, skip: Collection[str], skipped: list[Skipped]) -> list[int]:
    listed = set(skip)
    wanted = [entry for entry, name in enumerate(recordings.names) if name not in listed]
    skipped += [Skipped(name, SKIP_LISTED) for name in recordings.names if name in listed]
    unknown = len(listed.difference(recordings.names))
    if unknown:
        log.info("%d names on the skip list are not in %s", unknown, recordings.info.source)
    return wanted


def _detail(problem: Problem) -> str:
    """What was found, with the line where it was; the file is named beside it."""
    line = problem.where.rpartition(", ")[2] if problem.where and ", line " in problem.where else None
    found = f"found {problem.found}" if problem.found else None
    expected = f"expected {problem.expected}" if problem.expected else None
    return ", ".join(part for part in (line, found, expected) if part)
