"""The page: one HTML file with everything in it, made from a bundle and its reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from runtime.bundle import REPORTS, Bundle
from runtime.errors import InputError
from runtime.files import write_atomic
from runtime.recognizer import Recognizer
from star_edge import __version__
from star_edge.engines import default_engine, open_engine
from star_edge.report.accuracy import accuracy_sections
from star_edge.report.clips import choose, open_pool
from star_edge.report.compare import compare_sections, compare_sentence
from star_edge.report.content import Section, milliseconds, number, percent
from star_edge.report.motion import make_motions
from star_edge.report.provenance import provenance_section
from star_edge.report.quantisation import quantisation_sections
from star_edge.report.sources import Sources
from star_edge.report.speed import speed_sections
from star_edge.report.verdict import State, Verdict, make_verdict

SCHEMA = "star-edge/report/1"
_FOLDER = Path(__file__).parent


class Missing(msgspec.Struct, frozen=True):
    """A report of a bundle that is not shown: why, and the command that makes it."""

    bundle: str
    report: str
    reason: str
    command: str


class PageReport(msgspec.Struct, frozen=True, kw_only=True):
    """The document of ``star-edge report --json``.

    Attributes:
        made: the page; bytes: its size.
        bundles: those it is about, the baseline first; verdicts: of each.
        clips: names of those it plays.
        missing: reports that are not shown.
    """

    star_edge_version: str = __version__
    made: str
    bytes: int
    bundles: tuple[str, ...]
    verdicts: tuple[State, ...]
    clips: tuple[str, ...]
    missing: tuple[Missing, ...]
    schema: str = SCHEMA


def make_page(paths: Sequence[Path], out: Path | None = None, *, data: Path | None = None, clips: int = 4) -> PageReport:
    """Write the page of one bundle, or of several compared with the first.

    Args:
        paths: the bundles.
        out: the file; default: ``reports/report.html`` of the bundle, of several ``report.html`` here.
        data: dataset or .npz to take the clips from; default: the recorded one, else what came with the bundle.
        clips: at most so many are played, from the first bundle.

    Raises InputError (packed bundle without ``out``, unusable data, no folder to write into), MismatchError (files or data that
    do not fit), MissingDependencyError, OSError.
    """
    opened = [Bundle.open(path) for path in paths]
    if out is None and len(opened) == 1:
        opened[0].require_folder("report")
        out = opened[0].path / REPORTS / "report.html"
        out.parent.mkdir(exist_ok=True)
    out = out or Path("report.html")
    if not out.parent.is_dir():
        raise InputError("no folder to write the page into", where=out.parent, hint=f"mkdir -p {out.parent}")
    sources = [Sources.of(bundle) for bundle in opened]
    verdicts = [make_verdict(source) for source in sources]
    sections = _sections(sources[0]) if len(sources) == 1 else compare_sections(sources, verdicts)
    player = _player(sources[0], data, clips)
    page = _render(sources, verdicts, sections, player).encode()
    write_atomic(out, page)
    return PageReport(
        made=str(out),
        bytes=len(page),
        bundles=tuple(str(path) for path in paths),
        verdicts=tuple(verdict.state for verdict in verdicts),
        clips=tuple(motion["name"] for motion in player["motions"]),
        missing=tuple(
            Missing(str(path), name, reason, source.command(name))
            for path, source in zip(paths, sources, strict=True)
            for name, reason in source.missing.items()
        ),
    )


def _sections(sources: Sources) -> list[Section]:
    return [
        *accuracy_sections(sources),
        *quantisation_sections(sources),
        *speed_sections(sources),
        provenance_section(sources),
    ]


def _player(sources: Sources, data: Path | None, count: int) -> dict[str, Any]:
    """What the template and the player need, as plain values."""
    bundle = sources.bundle
    precision, skeleton = bundle.manifest.default_precision, bundle.manifest.skeleton
    pool = open_pool(sources, data)
    shown, rule = choose(pool, sources.predictions, precision, count)
    verified = sources.verify.results[0].engine if sources.verify else default_engine(bundle.manifest)
    engine = open_engine(bundle, verified, precision=precision)
    motions = make_motions(Recognizer(bundle, engine), shown, pool.fps)
    return {
        "motions": msgspec.to_builtins(motions),
        "bones": [list(bone) for bone in skeleton.bones],
        "dims": skeleton.dims,
        "what": pool.what,
        "rule": rule,
        "terms": pool.terms,
        "note": pool.note,
        "fps": pool.fps,
        "by": f"{engine.name} {precision}",
    }


def _render(
    sources: Sequence[Sources], verdicts: Sequence[Verdict], sections: Sequence[Section], player: dict[str, Any]
) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "milliseconds": milliseconds, "number": number, "zip": zip}
    charts = {chart.name: chart.figure for section in sections for chart in (*section.charts, *section.more)}
    return environment.get_template("page.html").render(
        version=__version__,
        sources=sources,
        verdicts=verdicts,
        sentence=compare_sentence(sources, verdicts) if len(sources) > 1 else verdicts[0].sentence,
        sections=sections,
        player=player,
        embedded={"charts": charts, "player": {name: player[name] for name in ("motions", "bones", "dims")}},
        style=_text("style.css"),
        scripts=[get_plotlyjs(), *map(_text, ("charts.js", "player.js"))],
    )


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
