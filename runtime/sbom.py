"""The software bill of materials of a packed bundle: CycloneDX 1.5, https://cyclonedx.org/docs/1.5/json/."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from runtime.manifest import GOLDEN, LOGICAL_NAMES, Manifest

_DATA = (GOLDEN, "clips.npz")


def sbom(manifest: Manifest, others: Mapping[str, str] = {}) -> bytes:
    """The document of a bundle, the same bytes for the same bundle: it has no time stamp, and its serial number is made
    from ``bundle_id``.

    Components are the files with their SHA-256; the tools are star-edge and the packages of ``manifest.created_by``, with
    versions. Where the weights come from, and the terms of those recordings, are properties of the model.

    Args:
        manifest: of the bundle.
        others: name -> SHA-256 of what is packed beside the bundle's files.
    """
    files = {entry.path: (name, entry.sha256) for name, entry in manifest.files.items()}
    files |= {name: (name, digest) for name, digest in others.items()}
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, manifest.bundle_id)}",
        "version": 1,
        "metadata": {"tools": {"components": _tools(manifest)}, "component": _model(manifest)},
        "components": [_file(path, *files[path]) for path in sorted(files)],
        "dependencies": [{"ref": "model", "dependsOn": sorted(f"file:{path}" for path in files)}],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def _tools(manifest: Manifest) -> list[dict[str, Any]]:
    own = {
        "type": "application",
        "name": "star-edge",
        "version": manifest.star_edge_version,
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }
    others = sorted((name, version) for name, version in manifest.created_by.items() if name != "star-edge")
    return [own, *({"type": "library", "name": name, "version": version} for name, version in others)]


def _model(manifest: Manifest) -> dict[str, Any]:
    source = manifest.source
    properties = {
        "bundle_id": manifest.bundle_id,
        "precisions": ", ".join(manifest.precisions),
        "checkpoint-sha256": source.checkpoint_sha256,
        "training-data": source.data_name,
        "training-data-sha256": source.data_sha256,
        "training-data-terms": source.terms or "not recorded",
    }
    return {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": manifest.model.name,
        "version": manifest.bundle_id[:12],
        "properties": [{"name": f"star-edge:{name}", "value": value} for name, value in properties.items() if value],
    }


def _file(path: str, name: str, digest: str) -> dict[str, Any]:
    if name in _DATA:
        kind = "data"
    else:
        kind = "machine-learning-model" if name in LOGICAL_NAMES and not name.endswith(".json") else "file"
    return {"type": kind, "bom-ref": f"file:{path}", "name": path, "hashes": [{"alg": "SHA-256", "content": digest}]}
