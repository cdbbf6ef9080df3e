"""Run a bundle's engines and the fp32 reference over a split, and judge them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from runtime.archive import CLIPS
from runtime.bundle import Bundle, write_report
from runtime.engine import Engine
from runtime.errors import InputError
from runtime.manifest import Manifest
from star_edge import __version__
from star_edge.data.packed import SPLIT, packed_dataset
from star_edge.data.recorded import Recorded, open_recorded
from star_edge.engines import default_engine, open_engine
from star_edge.engines import precisions as precisions_of
from star_edge.training.batches import featurise, group_by_frames
from star_edge.verification.compare import compare, compare_by_length
from star_edge.verification.gates import GATES, wilson_interval
from star_edge.verification.predictions import make_predictions
from star_edge.verification.report import VerifyReport, VerifyResult

if TYPE_CHECKING:
    from star_edge.data.dataset import Dataset

REFERENCE = "torch"
_FRAMES_PER_BATCH = 4096
_HALF = ("fp16", "bf16")

Track = Callable[[Iterable[Any], str, int], Iterable[Any]]


def verify_bundle(
    bundle: Bundle | str | Path,
    dataset: Dataset | str | Path | None = None,
    *,
    split: str | None = None,
    part: str = "test",
    engine: str | None = None,
    precisions: Sequence[str] | None = None,
    samples: int | None = None,
    own_clips: bool = False,
    seed: int = 0,
    threads: int | None = None,
    device: str | None = None,
    track: Track | None = None,
) -> VerifyReport:
    """Compare an engine with the fp32 ``torch`` reference on the same clips and write ``reports/verify.json``.

    The answers clip by clip are written to ``reports/predictions.json``. A packed bundle is only read: it is compared on the
    clips in it, and nothing is written.

    Args:
        bundle: an opened bundle, its folder, or a packed bundle that has clips.
        dataset: an opened dataset or a path; default: the training source recorded in the bundle.
        split: scheme; default: the one the model was trained under, else the dataset's own default.
        part: ``test``, ``val`` or ``train``.
        engine: engine under test; default: the bundle's.
        precisions: default: all the engine runs the bundle in.
        samples: at most so many clips, drawn with ``seed``.
        own_clips: compare on the clips in the bundle, see ``star-edge pack --clips``; neither a dataset nor a split are looked at.
        threads: threads of one call.
        device: of an engine that has a choice, ``cpu`` or ``cuda``.
        track: wraps the iteration for a progress bar.

    Returns the report, whether or not the gates hold: see ``passed``.

    Raises InputError (no data, no clips in the part), MismatchError (data of another skeleton or other classes, a
    precision the bundle lacks) and what the engines raise.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    manifest = bundle.manifest
    if own_clips or (bundle.archive is not None and dataset is None and bundle.sidecar(CLIPS) is not None):
        data, scheme, part = packed_dataset(bundle), SPLIT, "test"
    else:
        bundle.require_folder("verify")  # said before the work: the report is written into it
        data = open_recorded(Recorded.in_bundle(manifest), dataset, "verify")
        scheme = split or (manifest.source.split if manifest.source.split in data.meta.splits else data.meta.default_split)
    chosen, available = choose_clips(data, scheme, part, samples, seed)
    engine = engine or default_engine(bundle.manifest)
    reference = open_engine(bundle, REFERENCE, precision="fp32", threads=threads)
    contenders = _contenders(bundle, engine, precisions or precisions_of(bundle, engine, device), threads, device)
    expected, *answers = _logits([reference, *contenders], data, chosen, manifest, track)
    results = tuple(
        _judge(contender, logits, expected, data.labels[chosen], data.lengths[chosen], f"{scheme}/{part}")
        for contender, logits in zip(contenders, answers, strict=True)
    )
    report = VerifyReport(
        star_edge_version=__version__,
        bundle=bundle.path.resolve().name,
        bundle_id=manifest.bundle_id,
        data=data.meta.name,
        data_sha256=data.meta.sha256,
        split=scheme,
        part=part,
        samples=len(chosen),
        available=available,
        seed=seed,
        reference=f"{REFERENCE} fp32, {reference.report().provider}",
        results=results,
        passed=all(result.passed for result in results),
    )
    if bundle.archive is not None:
        return report
    predictions = make_predictions(report, data, chosen, [reference, *contenders], [expected, *answers])
    write_report(bundle, "predictions", msgspec.json.encode(predictions) + b"\n")
    write_report(bundle, "verify", msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    return report


def choose_clips(data: Dataset, scheme: str, part: str, samples: int | None, seed: int) -> tuple[np.ndarray, int]:
    """Indices of the clips to compare, ascending, and how many there are."""
    indices = data.indices(scheme, part)
    if not len(indices) or (samples is not None and samples < 1):
        raise InputError(
            "no clips to compare",
            where=data.path or data.meta.source,
            found=f"{len(indices)} clips in part '{part}' of split '{scheme}', {samples} asked for",
            expected="at least one",
            hint="choose another --split or --part",
        )
    if samples is None or samples >= len(indices):
        return indices, len(indices)
    return np.sort(np.random.default_rng(seed).choice(indices, samples, replace=False)), len(indices)


def _contenders(
    bundle: Bundle, engine: str, precisions: Sequence[str], threads: int | None, device: str | None
) -> list[Engine]:
    """The engine in each precision; beside one that computes half precision in fp32, the reference that rounds."""
    contenders = []
    for precision in precisions:
        contenders.append(open_engine(bundle, engine, precision=precision, threads=threads, device=device))
        if not _decides(contenders[-1]):
            contenders.append(open_engine(bundle, REFERENCE, precision=precision, threads=threads))
    return contenders


def _decides(engine: Engine) -> bool:
    """Whether the engine's arithmetic is that of its precision; the ``torch`` engine rounds every tensor to it."""
    return engine.precision not in _HALF or engine.name == REFERENCE or engine.precision in engine.report().compute


def _logits(
    engines: Sequence[Engine], data: Dataset, chosen: np.ndarray, manifest: Manifest, track: Track | None
) -> list[np.ndarray]:
    """Logits [N, K] of each engine; every batch of features is made once and given to all of them."""
    groups: Iterable[np.ndarray] = group_by_frames(data.lengths[chosen], _FRAMES_PER_BATCH)
    if track is not None:
        groups = track(groups, "comparing", len(list(groups)))
    answers: list[list[np.ndarray]] = [[] for _ in engines]
    for group in groups:
        clips = [data.clip(int(index)) for index in chosen[group]]
        features, cu_seqlens = featurise(clips, manifest.skeleton, manifest.features)
        for engine, answer in zip(engines, answers, strict=True):
            answer.append(engine.run(features, cu_seqlens))
    return [np.concatenate(answer) for answer in answers]


def _judge(
    engine: Engine, logits: np.ndarray, reference: np.ndarray, labels: np.ndarray, lengths: np.ndarray, split: str
) -> VerifyResult:
    used, gate = engine.report(), GATES[engine.precision]
    counts = compare(logits, reference, labels)
    n = counts.samples
    return VerifyResult(
        engine=engine.name,
        precision=engine.precision,
        storage=used.storage,
        compute=used.compute,
        provider=used.provider,
        mode=used.mode,
        threads=used.threads,
        split=split,
        samples=n,
        top1=counts.correct / n,
        reference_top1=counts.reference_correct / n,
        relative_accuracy=counts.correct / counts.reference_correct if counts.reference_correct else None,
        agreement=counts.agreed / n,
        agreement_interval=wilson_interval(counts.agreed, n),
        lost=counts.lost,
        gained=counts.gained,
        allowed_losses=gate.allowed_losses(n),
        allowed_disagreements=gate.allowed_disagreements(n),
        not_finite=counts.not_finite,
        max_abs_err=counts.max_abs_err,
        relative_err=counts.relative_err,
        buckets=compare_by_length(logits, reference, labels, lengths, gate),
        decides=_decides(engine),
        passed=gate.holds(n, counts.lost, counts.gained, counts.agreed),
    )
