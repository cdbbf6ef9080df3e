"""What ran where: engines and their real arithmetic, machine and versions, origin of model and clips, hashes."""

from __future__ import annotations

from collections import Counter

from runtime.manifest import Manifest
from star_edge.bench.jetson import describe
from star_edge.bench.report import BenchReport
from star_edge.report.content import Section, Table, number
from star_edge.report.sources import Sources
from star_edge.verification.report import VerifyReport


def provenance_section(sources: Sources) -> Section:
    """Tables alone; nothing in them is measured here."""
    manifest = sources.bundle.manifest
    tables = [_bundle(manifest)]
    if sources.verify:
        tables.append(_engines(sources.verify))
    tables.append(_nodes(manifest))
    if sources.bench:
        tables.append(_host(sources.bench))
    tables.append(_files(manifest))
    return Section(
        "provenance",
        "What ran where",
        "Enough to repeat every figure: what was asked for, what really computed it, and the hashes of what it was made from.",
        tables=tables,
    )


def _bundle(manifest: Manifest) -> Table:
    source, skeleton = manifest.source, manifest.skeleton
    rows = [
        ("bundle id", manifest.bundle_id),
        ("model", f"{manifest.model.name}, {len(manifest.class_names)} classes"),
        ("joints", f"{skeleton.name}, {skeleton.num_joints} joints, {manifest.features.channels} channels"),
        ("precisions", ", ".join(manifest.precisions) + f"; default {manifest.default_precision}"),
        (
            "made by",
            ", ".join(f"{name} {version}" for name, version in manifest.created_by.items()) or manifest.star_edge_version,
        ),
        ("checkpoint SHA-256", source.checkpoint_sha256),
        (
            "trained on",
            source.data_name + (f", split {source.split}, parts {' and '.join(source.fitted)}" if source.split else ""),
        ),
        ("data SHA-256", source.data_sha256),
        ("terms of the data", source.terms),
    ]
    return Table("The bundle", ["", ""], [[name, value or "not recorded"] for name, value in rows], words=True)


def _engines(verify: VerifyReport) -> Table:
    head = ["engine", "asked for", "stored in", "computed in", "by", "mode", "threads", "judges its precision"]
    rows = [
        [
            row.engine,
            row.precision,
            row.storage,
            row.compute,
            row.provider,
            row.mode,
            str(row.threads),
            "yes" if row.decides else "no",
        ]
        for row in verify.results
    ]
    caption = (
        f"Engines that answered {verify.samples} of {verify.available} {verify.part} clips of {verify.data} (split {verify.split},"
        f" data {verify.data_sha256[:12]}), beside {verify.reference}; star-edge {verify.star_edge_version}"
    )
    return Table(caption, head, rows, words=True)


def _nodes(manifest: Manifest) -> Table:
    rows = [
        [precision, ", ".join(f"{count} in {kind}" for kind, count in Counter(nodes.values()).most_common())]
        for precision, nodes in manifest.nodes.items()
    ]
    return Table("Modules by the precision of their weights and products", ["model", "modules"], rows, words=True)


def _host(bench: BenchReport) -> Table:
    host = bench.host
    rows = [
        ("processor", f"{host.cpu}, {host.cores} cores, {bench.threads} threads used"),
        ("instruction sets", ", ".join(host.isa)),
        ("clock", f"{number(host.clock_mhz, '{:.0f}')} MHz, governor {host.governor or 'not told'}, locked: "
                  + {True: "yes", False: "no", None: "not told"}[host.clocks_locked]),
        ("memory", number(host.memory_mb, "{:,.0f} MB")),
        ("load before", number(host.load_average, "{:.1f}")),
        ("system", host.system),
        ("versions", ", ".join(f"{name} {version}" for name, version in host.versions.items())),
        ("date", host.date),
        *((f"Jetson {word}", describe(state)) for word, state in (("before", host.jetson), ("after", host.jetson_after)) if state),
    ]  # fmt: skip
    return Table(
        "Machine that the latencies are of", ["", ""], [[name, value or "not told"] for name, value in rows], words=True
    )


def _files(manifest: Manifest) -> Table:
    rows = [[name, f"{entry.bytes:,}", entry.sha256] for name, entry in manifest.files.items()]
    return Table("Files", ["name", "bytes", "SHA-256"], rows, words=True, folded=True)
