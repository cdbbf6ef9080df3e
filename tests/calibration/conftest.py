"""A small data set and an untrained bundle for it, quick enough to calibrate in every test."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.reader import ClipReader
from runtime.bundle import Bundle, BundleWriter
from runtime.clip import Clip
from runtime.features import FeatureRecipe
from runtime.manifest import GOLDEN, WEIGHTS, Manifest, ModelEntry, Source, model_file
from runtime.readers.ntu import Recording
from star_edge.cli import main
from star_edge.data import Dataset
from star_edge.data.splits import TEST, TRAIN, VAL, Split
from star_edge.data.writer import DatasetWriter, SetInfo
from star_edge.skeletons import get_skeleton

SKELETON = get_skeleton("nite15")
CLASSES = ("wave", "kick", "bow")


@pytest.fixture
def needs_modelopt() -> None:
    pytest.importorskip(
        "modelopt.onnx.quantization", reason="nvidia-modelopt is not installed: pip install 'star-edge[calibrate]'"
    )


def _write_dataset(folder: Path, clips: int = 36, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> Path:
    """Clips of 1 to 20 rows, every fifth of two persons; of six clips four train, one is val, one test."""
    rng = np.random.default_rng(seed)
    with DatasetWriter(folder, SKELETON.num_joints, "small") as writer:
        assert not list(writer.replay([]))
        for number in range(clips):
            rows = 1 if number == 0 else int(rng.integers(2, 21))
            joints = rng.normal(0, 0.5, (rows, SKELETON.num_joints, 3)).astype(np.float32)
            persons = (rows - rows // 2, rows // 2) if number % 5 == 4 else (rows,)
            recording = Recording(Clip(joints, persons), rows, len(persons))
            label, subject = number // 6 % len(classes), number % 6
            writer.keep(recording, f"clip{number:03}", label, subject, (0, 0), stored=False)
        position = np.arange(clips) % 6
        assignment = np.where(position == 5, TEST, np.where(position == 4, VAL, TRAIN)).astype(np.int8)
        info = SetInfo("small", str(folder), "", SKELETON, classes, 30.0)
        rotated = np.roll(assignment, 1)
        nothing = np.full(clips, TEST, dtype=np.int8)
        splits = {"xsub": Split(assignment, ""), "other": Split(rotated, ""), "test-only": Split(nothing, "")}
        writer.commit(info, splits, "xsub", [], 0, 0)
    return folder


@pytest.fixture
def write_dataset() -> Callable[..., Path]:
    """(folder, clips, classes, seed) -> the folder, now a data set."""
    return _write_dataset


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set folder; do not write into it."""
    return _write_dataset(tmp_path_factory.mktemp("calibration") / "small")


@pytest.fixture
def make_bundle(small_data: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the bundle of an untrained one-layer model; ``change`` may edit its weights first."""

    def make(
        change: Callable[[dict[str, np.ndarray]], Any] = lambda weights: None, *, default: str = "fp32", **source: Any
    ) -> Path:
        import torch
        from safetensors.numpy import save

        from exporters.onnx.golden import make_golden
        from exporters.onnx.graph import build_model, node_precisions
        from star_edge.models.config import manifest_fields
        from star_edge.models.star import Star, StarConfig

        config = StarConfig(SKELETON.num_joints, 9, len(CLASSES), SKELETON.edges(), dim=16, heads=2, layers=1, hidden=24)
        torch.manual_seed(0)
        weights = {name: tensor.numpy() for name, tensor in Star(config).state_dict().items()}
        change(weights)
        writer = BundleWriter(tmp_path / "small.star")
        for precision in dict.fromkeys(["fp32", default]):
            writer.add(model_file(precision), build_model(config, weights, precision).SerializeToString())
        writer.add(WEIGHTS, save(weights))
        golden = make_golden(SKELETON, FeatureRecipe(), lambda _, cu: np.zeros((len(cu) - 1, len(CLASSES))))
        writer.add(GOLDEN, golden.to_bytes())
        meta = Dataset.open(small_data).meta
        manifest = Manifest(
            star_edge_version="0.1.0",
            model=ModelEntry("star-64", manifest_fields(config)),
            skeleton=SKELETON,
            features=FeatureRecipe(),
            class_names=CLASSES,
            default_precision=default,
            nodes={"fp32": node_precisions(config, "fp32")},
            source=Source(
                **{"data": str(small_data), "data_sha256": meta.sha256, "split": "xsub", "fitted": ("train",)} | source
            ),
        )
        return writer.commit(manifest).path

    return make


@pytest.fixture
def small_bundle(make_bundle: Callable[..., Path]) -> Bundle:
    return Bundle.open(make_bundle())


@pytest.fixture
def reader(small_data: Path) -> ClipReader:
    """All training clips, by name."""
    dataset = Dataset.open(small_data)
    return ClipReader(dataset, dataset.indices("xsub", "train"), FeatureRecipe())


@pytest.fixture
def writable_data(small_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_data, tmp_path / "copied"))


@pytest.fixture
def star_edge(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Runs a verb in an empty folder beside the bundle: (arguments) -> exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["star-edge", *map(str, arguments)])
        try:
            main()
            code: Any = 0
        except SystemExit as ended:
            code = ended.code
        return (code, *capsys.readouterr())

    return run
