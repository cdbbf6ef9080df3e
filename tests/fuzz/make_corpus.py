"""Write the first inputs of every reader into ``corpus/``: small whole files, and oddities; python tests/fuzz/make_corpus.py

What fuzzing found lies beside them under names of its own and is not touched.
"""

from __future__ import annotations

import io
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from harnesses import COLUMN_FILES, CORPUS, small_bundle, small_dataset, small_npz  # noqa: E402

ODD_JSON = {
    "empty": b"",
    "null": b"null",
    "deep": b'{"x":' + b"[" * 12000,
    "not-utf8": b'{"schema": "\xff\xfe"}',
    "surrogate": b'{"schema": "\\ud800", "skeletons": [], "name": "\\ud800"}',
    "huge-number": b'{"schema": 1e999, "data": 99999999999999999999999999}',
}
_X, _Y = 0.25, 0.75


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for reader, files in inputs(Path(folder)).items():
            target = CORPUS / reader
            target.mkdir(parents=True, exist_ok=True)
            for name, data in files.items():
                (target / name).write_bytes(data)


def inputs(folder: Path) -> dict[str, dict[str, bytes]]:
    """Reader -> name of an input -> its bytes."""
    from runtime.bundle import Bundle
    from runtime.clip import Clip
    from runtime.pack import pack_bytes
    from runtime.packed_clips import clips_to_bytes

    bundle = Bundle.open(small_bundle(folder / "x.star"))
    dataset = small_dataset(folder / "dataset")
    rows = np.linspace(0.1, 1, 2 * 15 * 3, dtype=np.float32).reshape(2, 15, 3)
    clips = clips_to_bytes([Clip(rows, (1, 1), "two")], np.array([1]), bundle.class_names)
    ucla, kinetics, frame = _ucla(), _kinetics(), {"t": 0.5, "persons": [{"id": 1, "joints": rows[0].round(2).tolist()}]}
    columns = {
        name.replace("/", "-"): bytes([place]) + (dataset / f"{name}.npy").read_bytes()
        for place, name in enumerate(COLUMN_FILES)
    }
    return {
        "ntu": {"one": _skeleton_file(1), "two": _skeleton_file(2), "nobody": b"1\n0\n", "many": b"99999999999\n1\n"},
        "npz": {"two-clips": small_npz(), "one-array": _npz(xyz=rows), "deflated": _npz(np.savez_compressed, xyz=rows)},
        "npy": {"float32": _npy(rows), "int16": _npy((rows * 9).astype(np.int16)), "columns": _npy(np.asfortranarray(rows)),
                "objects": _npy(np.array([None])), "huge": _npy(rows).replace(b"(2, 15, 3), ", b"(2, 9**99,3)")},
        "pyskl": {f"protocol{protocol}": pickle.dumps(_pyskl(), protocol) for protocol in (0, 2, 4, 5)},
        "nw_ucla": {"clip": _json(ucla)},
        "kinetics": {"clip": _json(kinetics)},
        "clip_json": {"nw_ucla": _json(ucla), "kinetics": _json(kinetics)},
        "stream": {"frames": b"\n".join([_json(frame)] * 3), "nobody": b'{"persons": []}\n' * 4},
        "skeleton": {"nite15": _json(bundle.manifest.skeleton), "cycle": _json({"name": "x", "joints": ["a", "b", "c"], "bones": [[1, 2], [2, 1]], "root": 0})},
        "recipe": {"some": b'{"epochs": 3, "lr": 1e-3, "augmentation": {"yaw": 5}}'},
        "recordings": {"set": _json({"schema": "star-edge/recordings/1", "name": "set", "terms": "", "class_names": ["wave"], "fps": 30.0})},
        "dataset_meta": {"meta": (dataset / "meta.json").read_bytes()},
        "dataset_column": columns,
        "manifest": {"manifest": (bundle.path / "manifest.json").read_bytes()},
        "packed": {"bundle": pack_bytes(bundle), "with-clips": pack_bytes(bundle, clips=clips)},
        "calibration": {"table": _calibration()},
        "golden": {"one-clip": bundle.read("golden.npz")},
        "checkpoint": {"small": _checkpoint(folder / "ckpt.pt"), "pickle": pickle.dumps({"schema": "star-edge/checkpoint/1"}, 2)},
        "case": {"case": _npz(features=rows, clip=np.array("one"))},
        "onnx": {"matmul": _onnx()},
        "engine": {"plan": b"ftrt" + bytes(20) + bytes([10, 13, 3, 9]) + b'{"bundle_id": "x"}'},
        "engine_sidecar": {"fp16": _sidecar()},
        "json": ODD_JSON,
    }  # fmt: skip


def _skeleton_file(bodies: int) -> bytes:
    joints = "".join(f"{_X} {_Y} 2.5 0 0 0 0 0 0 0 0 2\n" for _ in range(25))
    body = f"72057594037931101 0 1 1 1 1 0 0.02 0.03 2\n25\n{joints}"
    return (f"{bodies}\n" + f"{bodies}\n{body * bodies}" * bodies).encode()


def _npz(save: Any = np.savez, **arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _pyskl() -> dict[str, Any]:
    rows = np.linspace(50, 400, 2 * 2 * 17 * 2, dtype=np.float16).reshape(2, 2, 17, 2)
    score = np.full((2, 2, 17), 0.5, dtype=np.float16)
    fields = {"frame_dir": "clip", "label": 1, "img_shape": (480, 640), "original_shape": (480, 640), "total_frames": 2,
              "keypoint": rows, "keypoint_score": score}  # fmt: skip
    return {"split": {"train": ["clip"]}, "annotations": [fields]}


def _ucla() -> dict[str, Any]:
    return {"file_name": "a01_s01_e00_v01", "skeletons": [[[_X, _Y, 2.5]] * 20] * 2, "label": 1}


def _kinetics() -> dict[str, Any]:
    body = {"pose": [_X, _Y] * 18, "score": [0.5] * 18}
    frames = [{"frame_index": index, "skeleton": [body] * index} for index in (1, 2)]
    return {"data": frames, "label": "yoga", "label_index": 3}


def _calibration() -> bytes:
    from runtime.calibration_table import CalibrationTable

    return CalibrationTable(method="max", samples=1, requested_samples=2, clips=("one",), weights_sha256="0" * 64,
                            ranges={"embedding.in": 1.5}).to_bytes()  # fmt: skip


def _sidecar() -> bytes:
    from runtime.tensorrt.buckets import Bucket
    from runtime.tensorrt.sidecar import EngineSidecar, Gpu, Layer, Plugin, Power, ProfileCheck

    return EngineSidecar(
        star_edge_version="0.1.0",
        bundle_id="0" * 64,
        precision="fp16",
        tensorrt="10.3.0",
        cuda="12.6",
        driver="12.6",
        gpu=Gpu(name="Orin", sm=87, multiprocessors=8, integrated=True),
        board="orin-nano-8gb",
        power=Power(mode="25W", gpu_mhz=918.0),
        plugin=Plugin(key="0" * 16, sources_sha256="0" * 64, sha256="0" * 64),
        graph_sha256="0" * 64,
        engine_sha256="0" * 64,
        engine_bytes=1,
        profiles=(Bucket(64, 4), Bucket(128, 8)),
        plugin_layers=6,
        layers=(Layer("positions", "plugin"),),
        build_seconds=1.5,
        verification=(ProfileCheck(rows=64, clips=4, golden_clips=3, error=1e-4, long_error=1e-4, tolerance=5e-3),),
        command="star-edge build",
    ).to_bytes()


def _checkpoint(path: Path) -> bytes:
    import torch

    from runtime.features import FeatureRecipe
    from star_edge.models.registry import star_config
    from star_edge.models.star import Star
    from star_edge.skeletons import NITE15
    from star_edge.training.checkpoint import Checkpoint, DataEntry, ModelEntry, save_checkpoint

    config = star_config("star-64", NITE15, channels=3, classes=2, dim=4, heads=1, layers=1, hidden=4)
    torch.manual_seed(0)
    save_checkpoint(
        Checkpoint(ModelEntry("star-64", config), Star(config).state_dict(), NITE15, FeatureRecipe(channels=3),
                   ("wave", "kick"), DataEntry("", "small", "xsub")), path)  # fmt: skip
    return path.read_bytes()


def _onnx() -> bytes:
    from onnx import TensorProto, helper

    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["F", 3]) for name in ("features", "logits")]
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [3, 3], [1.0] * 9)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "weight"], ["logits"])], "x", ports[:1], ports[1:], [weight]
    )
    data: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    return data


def _json(content: Any) -> bytes:
    return msgspec.json.encode(content)


if __name__ == "__main__":
    main()
