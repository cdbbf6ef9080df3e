"""Where two engines part: every module's output side by side on one clip, and the first that is too far off."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from runtime.bundle import REPORTS, Bundle, write_report
from runtime.errors import InputError
from runtime.files import write_atomic
from runtime.packing import check_packed, cu_seqlens_of
from runtime.readers.decoding import DECODE_ERRORS, reason_of
from runtime.tolerances import TOLERANCES, relative_error
from star_edge.data.recorded import Recorded, open_recorded
from star_edge.engines import open_engine
from star_edge.training.batches import featurise
from star_edge.verification.report import LayerDifference, LayersReport
from star_edge.verification.taps import Tap, open_tap

_AT_ONCE = 8  # outputs held of each engine: memory is that of a few activations, whatever the depth


class Case(msgspec.Struct, frozen=True):
    """What was compared: name of the clip, features float32 [F, V, C]."""

    clip: str
    features: np.ndarray

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, features=self.features, clip=np.array(self.clip))
        return buffer.getvalue()

    @classmethod
    def read(cls, path: Path) -> Case:
        """Raises InputError for a file that is no case."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(str(arrays["clip"]), np.asarray(arrays["features"], dtype=np.float32))
        except DECODE_ERRORS as error:
            raise InputError("cannot read the case", where=path, found=reason_of(error),
                             expected="the .npz that star-edge verify --layers wrote") from None  # fmt: skip


def compare_layers(
    bundle: Bundle | str | Path,
    dataset: str | Path | None = None,
    *,
    split: str | None = None,
    part: str = "test",
    engine: str = "onnxruntime",
    precision: str | None = None,
    samples: int | None = None,
    seed: int = 0,
    threads: int = 1,
    bisect: bool = False,
    case: Path | None = None,
) -> LayersReport:
    """Compare an engine with fp32 PyTorch module by module, on the clip whose logits are furthest apart.

    Args:
        bundle: an opened bundle or its folder.
        dataset, split, part, samples, seed: the clips to find the worst of, as in ``verify_bundle``.
        engine, precision: the contender; default precision: the bundle's.
        threads: of one call.
        bisect: look only at the modules that a binary search for the first bad one needs. It takes for granted that what is
            behind a bad module is bad too.
        case: compare on the clip of an earlier comparison; no dataset is needed.

    Writes ``reports/layers.json`` and ``reports/layers-case.npz``.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    bundle.require_folder("verify")
    precision = precision or bundle.manifest.default_precision
    open_engine(bundle, engine, precision=precision, threads=threads)  # refuses what the engine does not compute
    reference, contender = open_tap(bundle, "torch", "fp32", threads), open_tap(bundle, engine, precision, threads)
    if case is None:
        chosen = _worst(bundle, dataset, split, part, engine, precision, samples, seed, threads)
    else:
        chosen = Case.read(case)
    config = bundle.manifest
    cu_seqlens = cu_seqlens_of([len(chosen.features)])
    check_packed(chosen.features, cu_seqlens, joints=config.skeleton.num_joints, channels=config.features.channels)
    compared = _Compared(reference, contender, chosen.features, cu_seqlens, TOLERANCES[precision])
    layers = tuple(compared.bisect() if bisect else compared.all())
    bad = [layer.module for layer in layers if layer.bad]
    path = bundle.path / REPORTS / "layers-case.npz"
    report = LayersReport(
        bundle=str(bundle.path),
        bundle_id=config.bundle_id,
        reference=reference.name,
        contender=contender.name,
        clip=chosen.clip,
        rows=len(chosen.features),
        tolerance=compared.tolerance,
        bisected=bisect,
        layers=layers,
        first_bad=bad[0] if bad else None,
        case=str(path),
    )
    write_report(bundle, "layers", msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    write_atomic(path, chosen.to_bytes())
    return report


def difference(module: str, found: np.ndarray, reference: np.ndarray, tolerance: float) -> LayerDifference:
    """Compare two outputs of one module; shapes may differ by a reshape."""
    shape = tuple(found.shape)
    one, two = found.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    if one.shape != two.shape or not np.isfinite(one).all():
        return LayerDifference(
            module=module, shape=shape, max_abs_err=None, relative_err=None, cosine=None, sqnr_db=None, bad=True
        )
    noise, scale = one - two, float(np.linalg.norm(two))
    loud, lengths = float(np.linalg.norm(noise)), float(np.linalg.norm(one)) * scale
    return LayerDifference(
        module=module,
        shape=shape,
        max_abs_err=float(np.abs(noise).max(initial=0)),
        relative_err=relative_error(one, two),
        cosine=float(one @ two) / lengths if lengths else None,
        sqnr_db=20 * math.log10(scale / loud) if loud and scale else None,
        bad=loud > tolerance * scale,
    )


class _Compared:
    """Both engines on one clip."""

    def __init__(self, reference: Tap, contender: Tap, features: np.ndarray, cu_seqlens: np.ndarray, tolerance: float) -> None:
        self.reference, self.contender, self.tolerance = reference, contender, tolerance
        self._inputs = features, cu_seqlens
        known = set(reference.modules())
        self.modules = [module for module in contender.modules() if module in known]

    def all(self) -> Iterator[LayerDifference]:
        """Every module, a few at a time."""
        for start in range(0, len(self.modules), _AT_ONCE):
            yield from self._differences(self.modules[start : start + _AT_ONCE])

    def bisect(self) -> list[LayerDifference]:
        """The modules that a search for the first bad one looks at, in the order they are computed; the logits first."""
        last = self.modules[-1]
        seen = {last: self._one(last)}
        low, high = 0, len(self.modules) - 1
        while seen[last].bad and low < high:
            middle = (low + high) // 2
            module = self.modules[middle]
            seen[module] = self._one(module)
            low, high = (low, middle) if seen[module].bad else (middle + 1, high)
        return [seen[module] for module in self.modules if module in seen]

    def _one(self, module: str) -> LayerDifference:
        return next(self._differences([module]))

    def _differences(self, modules: Sequence[str]) -> Iterator[LayerDifference]:
        expected = self.reference.outputs(modules, *self._inputs)
        found = self.contender.outputs(modules, *self._inputs)
        for module in modules:
            yield difference(module, found[module], expected[module], self.tolerance)


def _worst(
    bundle: Bundle,
    dataset: str | Path | None,
    split: str | None,
    part: str,
    engine: str,
    precision: str,
    samples: int | None,
    seed: int,
    threads: int,
) -> Case:
    """The clip whose logits are furthest from the reference's."""
    from star_edge.verification.verify import choose_clips

    manifest = bundle.manifest
    data = open_recorded(Recorded.in_bundle(manifest), dataset, "verify")
    scheme = split or (manifest.source.split if manifest.source.split in data.meta.splits else data.meta.default_split)
    chosen, _ = choose_clips(data, scheme, part, samples, seed)
    reference = open_engine(bundle, "torch", precision="fp32", threads=threads)
    contender = open_engine(bundle, engine, precision=precision, threads=threads)
    worst, furthest = None, -1.0
    for index in chosen:
        clip = data.clip(int(index))
        features, cu_seqlens = featurise([clip], manifest.skeleton, manifest.features)
        logits = contender.run(features, cu_seqlens)
        distance = float(np.abs(logits - reference.run(features, cu_seqlens)).max())
        if not distance <= furthest:  # NaN is furthest
            worst, furthest = Case(clip.name, features), distance
            if np.isnan(distance):
                break
    assert worst is not None
    return worst
