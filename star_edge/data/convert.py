"""Recordings to one packed dataset folder: streamed, in parallel, all or nothing, and nothing left out without a reason."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from runtime.clip import Clip
from runtime.errors import InputError
from runtime.files import scratch_folder
from runtime.readers.ntu import Recording
from runtime.skeleton import Skeleton
from star_edge.data.dataset import SCHEMA, Dataset, DatasetMeta, Skipped, is_dataset
from star_edge.data.joint_map import JointMap, map_joints
from star_edge.data.journal import Stamp, stamp_of
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

    The result does not depend on ``workers``. Until it is complete, nothing stands under the name ``out``; a conversion that was
    killed or interrupted goes on where it ended when it is called again with the same arguments, and the result is the same.

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
    entries = _without_listed(recordings, skip)
    plan = _plan(recordings, entries, layout, min_frames)
    with DatasetWriter(out, layout.num_joints, plan, force=force) as writer:
        conversion = _Conversion(recordings, writer, on_error, mapping, min_frames)
        for file, problem in recordings.rejected:
            conversion.leave_out(file, problem)
        conversion.skipped += [Skipped(name, SKIP_LISTED) for name in recordings.names if name in skip]
        results: Iterable[Result] = conversion.results(entries, workers)
        if track is not None:
            results = track(results, "reading", len(entries))
        for result in results:
            conversion.take(result)
        return conversion.commit(layout, split)


class Result(NamedTuple):
    """What came of reading an entry, by this conversion or (``stored``) by one that was interrupted."""

    entry: int
    stamp: Stamp
    outcome: Recording | Problem
    stored: bool


@dataclass
class _Conversion:
    """One conversion under way: what was kept, and what was left out for which reason."""

    source: Source
    writer: DatasetWriter
    on_error: Literal["skip", "fail"]
    mapping: JointMap | None
    min_frames: int
    skipped: list[Skipped] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    dropped_rows: int = 0
    dropped_persons: int = 0

    def results(self, entries: Sequence[int], workers: int) -> Iterator[Result]:
        """What an interrupted conversion had done, then what is read now."""
        stamps = [stamp_of(self.source.files[entry]) for entry in entries]
        done = 0
        for outcome in self.writer.replay(stamps):
            yield Result(entries[done], stamps[done], outcome, stored=True)
            done += 1
        if done:
            log.info("going on after %d of %d recordings that an interrupted conversion had done", done, len(entries))
        outcomes = self.source.read(entries[done:], workers)
        for entry, stamp, outcome in zip(entries[done:], stamps[done:], outcomes, strict=True):
            yield Result(entry, stamp, self._prepared(entry, outcome), stored=False)

    def take(self, result: Result) -> None:
        """Put a recording into the dataset, or leave it out."""
        entry, stamp, outcome, stored = result
        name = self.source.names[entry]
        if isinstance(outcome, Recording):
            problem = self.source.accept(entry, outcome)
            if problem is None:
                label, subject = int(self.source.labels[entry]), int(self.source.subjects[entry])
                self.writer.keep(outcome, name, label, subject, stamp, stored=stored)
                self.kept.append(entry)
                self.dropped_rows += outcome.clip.dropped
                self.dropped_persons += outcome.persons - len(outcome.clip.person_lengths)
                return
            outcome = problem
        self.leave_out(name, outcome)
        if not stored:
            self.writer.leave_out(outcome, stamp)

    def leave_out(self, file: str, problem: Problem) -> None:
        """Record why; raises it as an InputError where a bad recording ends the conversion."""
        if self.on_error == "fail":
            raise problem.error("repair or remove it, list it in --skip-list, or use --on-error skip")
        entry = Skipped(file, problem.what, _detail(problem))
        log.warning("skipped %s: %s (%s)", file, entry.reason, entry.detail)
        self.skipped.append(entry)

    def commit(self, layout: Skeleton, split: str | None) -> DatasetMeta:
        """Finish the folder; raises InputError when it would be empty, or for a split that it has not."""
        if not self.kept:
            reasons = sorted({entry.reason for entry in self.skipped})
            raise InputError(
                "no usable recording",
                where=self.source.info.source,
                found=f"{len(self.skipped)} skipped: {', '.join(reasons)}",
                expected="at least one",
            )
        splits = self.source.splits(np.array(self.kept))
        default = split or next(iter(splits))
        if default not in splits:
            raise InputError(f"no split '{default}'", where=self.source.info.source, found=default, expected=", ".join(splits))
        info = msgspec.structs.replace(self.source.info, skeleton=layout)
        return self.writer.commit(info, splits, default, self.skipped, self.dropped_rows, self.dropped_persons)

    def _prepared(self, entry: int, outcome: Recording | Problem) -> Recording | Problem:
        """In the layout of the dataset, and long enough."""
        if self.mapping and isinstance(outcome, Recording):
            outcome = _mapped(outcome, self.mapping)
        if isinstance(outcome, Recording) and (frames := max(outcome.clip.person_lengths)) < self.min_frames:
            name = self.source.names[entry]
            return Problem("too few frames with a body", name, str(frames), f"at least {self.min_frames}")
        return outcome


def _plan(source: Source, entries: Sequence[int], layout: Skeleton, min_frames: int) -> str:
    """SHA-256 over what decides on every entry, besides the files: an interrupted conversion of the same plan can go on."""
    names = [source.names[entry] for entry in entries]
    return hashlib.sha256(msgspec.json.encode((SCHEMA, source.info, names, layout, min_frames))).hexdigest()


def open_dataset(path: str | Path, *, skeleton: str | None = None, track: Track | None = None) -> Dataset:
    """A dataset folder; or recordings of any kind that :func:`convert` takes, converted on the fly.

    The conversion is that of :func:`convert`, into a temporary folder whose files vanish with the returned object.
    """
    path = Path(path)
    if is_dataset(path):
        return Dataset.open(path)
    with scratch_folder() as folder:
        converted = folder / "dataset"
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
    dropped = clip.dropped + mapped.dropped
    return replace(recording, clip=Clip(mapped.joints, mapped.person_lengths, clip.name, dropped))


def _without_listed(source: Source, skip: Collection[str]) -> list[int]:
    unknown = len(set(skip).difference(source.names))
    if unknown:
        log.info("%d names on the skip list are not in %s", unknown, source.info.source)
    return [entry for entry, name in enumerate(source.names) if name not in skip]


def _detail(problem: Problem) -> str:
    """What was found, with the line where it was; the file is named beside it."""
    line = problem.where.rpartition(", ")[2] if problem.where and ", line " in problem.where else None
    found = f"found {problem.found}" if problem.found else None
    expected = f"expected {problem.expected}" if problem.expected else None
    return ", ".join(part for part in (line, found, expected) if part)
