"""A bundle with INT8, made in a second: ranges are the largest values that its own golden clips give."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
from onnx import helper

from exporters.onnx.graph import Base, build_model, node_precisions, recorded_tensors
from runtime.bundle import Bundle, BundleWriter
from runtime.calibration_table import CalibrationTable
from runtime.features import compute_features
from runtime.manifest import CALIBRATION, GOLDEN, WEIGHTS, Precision, model_file
from star_edge.models.config import StarConfig


def config_of(bundle: Bundle) -> StarConfig:
    return msgspec.convert(bundle.manifest.model.config, StarConfig)


def make_int8_bundle(source: Path, path: Path, base: Base) -> Bundle:
    """Copy a bundle with models of fp32 and fp16, and add the int8 one over a base, which is its default."""
    from safetensors.numpy import load

    held = Bundle.open(source)
    config, golden = config_of(held), held.golden()
    features = compute_features(golden.joints, golden.person_lengths, held.manifest.skeleton, held.manifest.features)
    ranges = _ranges(held.read(model_file("fp32")), config, features, golden.cu_seqlens)
    table = CalibrationTable(
        method="max",
        samples=len(golden.names),
        requested_samples=len(golden.names),
        clips=golden.names,
        weights_sha256=held.manifest.files[WEIGHTS].sha256,
        ranges=ranges,
    )
    writer = BundleWriter(path)
    for name in (model_file("fp32"), model_file("fp16"), WEIGHTS, GOLDEN):
        writer.add(name, held.read(name))
    model = build_model(config, load(held.read(WEIGHTS)), "int8", ranges, base)
    writer.add(model_file("int8"), model.SerializeToString())
    writer.add(CALIBRATION, table.to_bytes())
    nodes = held.manifest.nodes | {"int8": node_precisions(config, "int8", base)}
    precision: Precision = base
    return writer.commit(msgspec.structs.replace(held.manifest, default_precision=precision, nodes=nodes))


def _ranges(data: bytes, config: StarConfig, features: np.ndarray, cu_seqlens: np.ndarray) -> dict[str, float]:
    model = onnx.load_model_from_string(data)
    names = recorded_tensors(config)
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in set(names.values()))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = sorted(set(names.values()))
    values = dict(zip(wanted, session.run(wanted, {"features": features, "cu_seqlens": cu_seqlens}), strict=True))
    return {key: float(np.abs(values[name]).max()) for key, name in names.items()}
