"""What a bundle's reports measured, read as typed documents; only those made from the bundle as it is now count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import msgspec

from calibration.report import RangesReport, SensitivityReport
from runtime.bundle import Bundle, Report
from runtime.errors import InputError, MismatchError
from runtime.manifest import check_schema
from star_edge.bench.report import BenchReport
from star_edge.verification.compare import NOT_A_CLASS
from star_edge.verification.report import LayersReport, PredictionsReport, VerifyReport

Document = TypeVar("Document", VerifyReport, PredictionsReport, BenchReport, SensitivityReport, RangesReport, LayersReport)

# report -> options of the command that makes it
_COMMANDS = {
    "verify": "verify {}",
    "predictions": "verify {}",
    "bench": "bench {}",
    "sensitivity": "analyze {}",
    "ranges": "calibrate {}",
    "layers": "verify {} --layers",
}
_OF_INT8 = ("sensitivity", "ranges")
_NO_INT8 = "the bundle has no INT8 model"


@dataclass(frozen=True)
class Sources:
    """An opened bundle and its reports.

    Attributes:
        verify, predictions, bench, sensitivity, ranges, layers: None where a report is missing or not of this bundle.
        missing: name of each report that is None -> a sentence that says why.
    """

    bundle: Bundle
    verify: VerifyReport | None
    predictions: PredictionsReport | None
    bench: BenchReport | None
    sensitivity: SensitivityReport | None
    ranges: RangesReport | None
    layers: LayersReport | None
    missing: dict[str, str]

    @classmethod
    def of(cls, bundle: Bundle) -> Sources:
        """Read the reports beside a bundle; one that cannot be read is missing, with the reason."""
        held = {report.name: report for report in bundle.reports()}
        missing: dict[str, str] = {}

        def read(name: str, kind: type[Document]) -> Document | None:
            try:
                if name in _OF_INT8 and "int8" not in bundle.manifest.precisions:
                    raise InputError(_NO_INT8)
                return _read(held.get(name), kind)
            except (InputError, MismatchError) as error:
                missing[name] = error.what
                return None

        verify, predictions = read("verify", VerifyReport), read("predictions", PredictionsReport)
        if predictions and not _is_whole(predictions, len(bundle.class_names)):
            missing["predictions"], predictions = "the report contradicts itself", None
        if verify and predictions and not _of_one_run(verify, predictions):
            missing["predictions"], predictions = "answers of another run than the verification", None
        return cls(
            bundle,
            verify,
            predictions,
            read("bench", BenchReport),
            read("sensitivity", SensitivityReport),
            read("ranges", RangesReport),
            read("layers", LayersReport),
            missing,
        )

    def command(self, report: str) -> str:
        """What to type to make a report."""
        verb = _COMMANDS["ranges" if self.missing.get(report) == _NO_INT8 else report]
        return "star-edge " + verb.format(self.bundle.path)


def _read(report: Report | None, kind: type[Document]) -> Document:
    """The typed report; InputError or MismatchError, whose ``what`` says why there is none."""
    if report is None:
        raise InputError("not measured yet")
    if not report.current:
        raise MismatchError("measured on another state of the bundle")
    schema = next(field.default for field in msgspec.structs.fields(kind) if field.name == "schema")
    check_schema(report.data, schema, report.name)
    try:
        return msgspec.json.decode(report.data, type=kind)
    except msgspec.MsgspecError:
        raise InputError("the report cannot be read") from None


def _is_whole(predictions: PredictionsReport, classes: int) -> bool:
    """Whether every clip has a class of the bundle, its length, and an answer in each row."""
    lengths = {len(predictions.labels), len(predictions.rows), len(predictions.persons)}
    named = [*predictions.labels]
    for answers in predictions.answers:
        lengths |= {len(answers.classes), len(answers.confidences)}
        named += [index for index in answers.classes if index != NOT_A_CLASS]
    fits = lengths == {len(predictions.clips)} and all(0 <= index < classes for index in named)
    return fits and len(predictions.clips) > 0 and len(predictions.answers) > 0


def _of_one_run(verify: VerifyReport, predictions: PredictionsReport) -> bool:
    """Whether both are about the same clips and engines."""
    names = ("data_sha256", "split", "part", "samples", "seed")
    rows = [(result.engine, result.precision) for result in verify.results]
    answered = [(answers.engine, answers.precision) for answers in predictions.answers[1:]]
    return rows == answered and all(getattr(verify, name) == getattr(predictions, name) for name in names)
