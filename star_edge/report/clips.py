"""Which clips the page plays: recorded test clips, those packed with the bundle, or the generated golden ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.archive import CLIPS
from runtime.bundle import Bundle
from runtime.clip import Clip
from runtime.errors import InputError, MismatchError
from runtime.packed_clips import read_packed_clips
from runtime.packing import unpack
from star_edge.data.recorded import Recorded, open_recorded
from star_edge.report.accuracy import default_answers
from star_edge.report.sources import Sources
from star_edge.verification.report import PredictionsReport

_ENOUGH_ROWS = 15  # half a second: shorter clips are hardly seen


@dataclass(frozen=True)
class Pool:
    """Clips to choose from.

    Attributes:
        names, labels: of each clip; a label is None where nobody knows what the clip shows.
        clip: index -> clip.
        what: what they are, for people. terms: what the owner of the recordings allows. fps: None where unknown.
        note: why they are not the recorded clips; empty when they are.
    """

    names: Sequence[str]
    labels: Sequence[int | None]
    clip: Callable[[int], Clip]
    what: str
    terms: str = ""
    fps: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Shown:
    """A clip to play, what it shows, and why it was chosen."""

    clip: Clip
    label: int | None
    why: str


def open_pool(sources: Sources, data: Path | None) -> Pool:
    """The clips of ``data``, else of the recorded dataset if it is here and unchanged, else the bundle's own.

    Raises what ``open_recorded`` raises when ``data`` is given and cannot be used.
    """
    bundle = sources.bundle
    try:
        return _recorded(sources, data)
    except (InputError, MismatchError) as error:
        if data is not None:
            raise
        note = f"The recorded clips are not shown: {error.what}. Name them: star-edge report {bundle.path} --data DATASET"
    if bundle.sidecar(CLIPS) is not None:
        packed = read_packed_clips(bundle)
        names = [clip.name for clip in packed.clips]
        terms = bundle.manifest.source.terms
        return Pool(
            names, packed.labels.tolist(), packed.clips.__getitem__, "test clips packed with the bundle", terms, note=note
        )
    return _golden(bundle, note)


def choose(pool: Pool, predictions: PredictionsReport | None, precision: str, count: int) -> tuple[list[Shown], str]:
    """At most ``count`` clips, and the rule by which they were chosen."""
    groups = _groups(pool, predictions, precision) if predictions else {}
    if not groups:
        spread = np.unique(np.linspace(0, len(pool.names) - 1, count).round().astype(int))
        rule = "evenly spread over them" + (
            "" if pool.labels[0] is None else "; star-edge verify would tell right from wrong ones"
        )
        return [Shown(pool.clip(int(i)), pool.labels[i], "") for i in spread], rule
    chosen: dict[int, str] = {}
    for place in range(count):
        for why, members in groups.items():
            if place < len(members) and len(chosen) < count:
                chosen.setdefault(members[place], why)
    rule = (
        f"those named right most surely, right least surely, wrong most surely, and two persons most surely, in turn, among clips of at"
        f" least {_ENOUGH_ROWS} rows where there are any"
    )
    return [Shown(pool.clip(i), pool.labels[i], why) for i, why in chosen.items()], rule


def _groups(pool: Pool, predictions: PredictionsReport, precision: str) -> dict[str, list[int]]:
    """Why a clip is worth a look -> clips of the pool, the best example first."""
    answers = default_answers(predictions, precision)
    positions = {name: i for i, name in enumerate(pool.names)}
    known = [i for i, name in enumerate(predictions.clips) if name in positions]
    known = [i for i in known if predictions.rows[i] >= _ENOUGH_ROWS] or known
    right = [i for i in known if answers.classes[i] == predictions.labels[i]]
    wrong = [i for i in known if answers.classes[i] != predictions.labels[i]]

    def ranked(clips: Sequence[int], sign: int) -> list[int]:
        order = sorted(clips, key=lambda i: (sign * answers.confidences[i], predictions.clips[i]))
        return [positions[predictions.clips[i]] for i in order]

    groups = {
        "right and sure": ranked(right, -1),
        "right but unsure": ranked(right, 1),
        "wrong": ranked(wrong, -1),
        "two persons": ranked([i for i in right if predictions.persons[i] > 1], -1),
    }
    return {why: clips for why, clips in groups.items() if clips}


def _recorded(sources: Sources, data: Path | None) -> Pool:
    manifest, predictions = sources.bundle.manifest, sources.predictions
    dataset = open_recorded(Recorded.in_bundle(manifest), data, "report")
    splits = dataset.meta.splits
    wished = (predictions.split if predictions else "", manifest.source.split)
    scheme = next((name for name in wished if name in splits), dataset.meta.default_split)
    part = predictions.part if predictions else "test"
    indices = dataset.indices(scheme, part)
    if not len(indices):
        raise InputError(f"no clips in part '{part}' of split '{scheme}'", where=data)
    return Pool(
        names=[str(name) for name in dataset.names[indices]],
        labels=dataset.labels[indices].tolist(),
        clip=lambda i: dataset.clip(int(indices[i])),
        what=f"{part} clips of {dataset.meta.name}, split {scheme}",
        terms=dataset.meta.terms,
        fps=dataset.meta.fps,
    )


def _golden(bundle: Bundle, note: str) -> Pool:
    golden = bundle.golden()
    joints = unpack(golden.joints, golden.cu_seqlens)
    clips = [
        Clip(rows, tuple(int(n) for n in persons if n), name)
        for rows, persons, name in zip(joints, golden.person_lengths, golden.names, strict=True)
    ]
    names = [clip.name for clip in clips]
    what = "golden clips, generated and no recordings: bodies of random shape that sway, which show nothing"
    return Pool(names, [None] * len(clips), clips.__getitem__, what, note=note)
