"""The verbs that ``benchmarks/kill.py`` kills: their inputs, their commands, and how to see what stands."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from calibration.report import SensitivityReport
from runtime.bundle import Bundle
from runtime.errors import MismatchError
from runtime.features import FeatureRecipe
from star_edge.data import Dataset
from star_edge.data.generator import generate
from star_edge.models.registry import star_config
from star_edge.models.star import Star
from star_edge.skeletons import NITE15
from star_edge.training.checkpoint import Checkpoint, DataEntry, ModelEntry, load_checkpoint, load_torch, save_checkpoint

# what the verbs import; importing writes nothing
MODULES = (
    "calibration.analyze",
    "calibration.calibrate",
    "modelopt.onnx.quantization",
    "onnxruntime",
    "star_edge.cli",
    "star_edge.data.convert",
    "star_edge.export",
    "star_edge.training.loop",
    "tensorboard.summary.writer.record_writer",
)
_CLIPS, _CLASSES, _EPOCHS, _SEED = 48, 3, 4, 7


@dataclass(frozen=True)
class State:
    """What stands in a folder: a digest of the result, None without one, and the units of work that a second run can go on from."""

    digest: str | None = None
    work: int = 0


@dataclass(frozen=True)
class Verb:
    """A verb on trial. Its commands run in a folder of its own; the inputs are in ``../inputs``.

    Attributes:
        command: what is killed.
        state: what stands in the folder; raises StarEdgeError or MsgspecError when something there is half.
        start: commands that make what the verb needs in its folder.
        older: commands that make an older result there.
        over: added to the command where an older result stands; ``again``: where the killed one left something.
        found: units of work that a run says, by its output, it went on from.
    """

    command: str
    state: Callable[[Path], State]
    start: tuple[str, ...] = ()
    older: tuple[str, ...] = ()
    over: str = ""
    again: Callable[[Path], str] = lambda folder: ""
    found: Callable[[str], int] = lambda output: 0


def make_inputs(folder: Path) -> None:
    """Clips, recordings and untrained checkpoints; ``data`` is still to be converted."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 17, _CLIPS)
    np.savez(
        folder / "clips.npz",
        xyz=rng.normal(0, 0.5, (lengths.sum(), NITE15.num_joints, 3)).astype(np.float32),
        lengths=lengths,
        labels=np.arange(_CLIPS) % _CLASSES,
        subjects=np.arange(_CLIPS) // _CLASSES % 8,
        names=np.array([f"clip{index}" for index in range(_CLIPS)]),
        class_names=np.array([f"class{index}" for index in range(_CLASSES)]),
        edges=np.array(NITE15.bones),
    )
    generate(folder / "recordings", 60, seed=0, classes=4)
    generate(folder / "other_recordings", 12, seed=1, classes=4)
    for seed, name in enumerate(("ckpt.pt", "other.pt")):
        _save_untrained(folder / name, seed)


def _save_untrained(path: Path, seed: int) -> None:
    """A checkpoint of a small model for the clips."""
    classes = tuple(f"class{index}" for index in range(_CLASSES))
    config = star_config("star-64", NITE15, channels=9, classes=_CLASSES, dim=16, heads=2, layers=2, hidden=24)
    torch.manual_seed(seed)
    save_checkpoint(
        Checkpoint(
            model=ModelEntry("star-64", config),
            state_dict=Star(config).state_dict(),
            skeleton=NITE15,
            features=FeatureRecipe(),
            class_names=classes,
            data=DataEntry(source="", name="clips", split="xsub"),
        ),
        path,
    )


def _dataset(folder: Path) -> State:
    """The work is the recordings in the journal of a conversion that did not end; behind the last rename the journal stands alone."""
    path, partial = folder / "out", folder / ".out.partial"
    begun = (partial / "dataset" / "xyz.npy").exists()
    work = max(0, (partial / "journal.jsonl").read_bytes().count(b"\n") - 1) if begun else 0
    if not path.exists():
        return State(work=work)
    dataset = Dataset.open(path)
    if dataset.sha256() != dataset.meta.sha256:
        raise MismatchError("joints or columns are not those of the description", where=path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return State(_digest({str(file.relative_to(path)): file.read_bytes() for file in files}), work)


def _training(folder: Path) -> State:
    checkpoint, last = folder / "run" / "ckpt.pt", folder / "run" / "last.pt"
    parts: dict[str, Any] = {}
    work = 0
    if checkpoint.exists():
        saved = load_checkpoint(checkpoint)
        parts["checkpoint"] = [saved.state_dict, saved.metrics]
    if last.exists():
        state = load_torch(last)
        parts["last"] = [state[name] for name in ("weights", "averaged", "optimizer", "epoch", "step", "best")]
        work = state["epoch"] if state["seed"] == _SEED else 0
    return State(_digest(parts) if parts else None, work)


def _resume_or_force(folder: Path) -> str:
    return "--resume" if _training(folder).work else "--force"


def _bundle(folder: Path) -> State:
    """Every file by its hash, under whatever name it is stored; the reports are whole JSON."""
    path = folder / "x.star"
    if not path.exists():
        return State()
    bundle = Bundle.open(path)
    files = {name: entry.sha256 for name, entry in bundle.manifest.files.items()}
    manifest = msgspec.to_builtins(msgspec.structs.replace(bundle.manifest, files={}))
    reports = {report.name: msgspec.json.decode(report.data) for report in bundle.reports()}
    return State(_digest([manifest, files, reports]))


def _analysis(folder: Path) -> State:
    """Scores, which come out the same every time; not times and what is chosen by them."""
    bundle = Bundle.open(folder / "x.star")
    path = bundle.path / "reports" / "sensitivity.json"
    if not path.exists():
        return State()
    report = msgspec.json.decode(path.read_bytes(), type=SensitivityReport)
    scores = (report.clips_sha256, report.float_score, report.int8_score, report.layers, report.decision is not None)
    return State(_digest(msgspec.to_builtins(scores)), len(report.layers) if report.clips > _OTHER_CLIPS else 0)


def _digest(value: Any) -> str:
    """SHA-256 of containers, tensors and bytes, in their order."""
    digest = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, Mapping):
            part = list(part.items())
        if isinstance(part, (list, tuple)):
            digest.update(b"(")
            for entry in part:
                add(entry)
            digest.update(b")")
        elif isinstance(part, torch.Tensor):
            digest.update(part.detach().contiguous().numpy().tobytes())
        else:
            digest.update(part if isinstance(part, bytes) else repr(part).encode())

    add(value)
    return digest.hexdigest()


def _epochs_found(output: str) -> int:
    return _EPOCHS - len(re.findall(r"^epoch \d+/", output, re.MULTILINE))


def _number(pattern: str) -> Callable[[str], int]:
    """What a pattern's group matches in an output, 0 where it matches nothing."""

    def find(output: str) -> int:
        match = re.search(pattern, output)
        return int(match[1]) if match else 0

    return find


_OTHER_CLIPS = 2
_NEW_BUNDLE = "export --fp16 ../inputs/ckpt.pt --out x.star"
_OTHER_BUNDLE = "export ../inputs/other.pt --out x.star"
_CALIBRATE = "calibrate x.star --data ../inputs/data --samples 16"
_ANALYZE = "analyze x.star --data ../inputs/data --rounds 3 --threads 1 --workload 1x16"
VERBS = {
    "convert": Verb(
        "data convert ../inputs/recordings out",
        _dataset,
        older=("data convert ../inputs/other_recordings out",),
        over="--force",
        again=lambda folder: "--force",
        found=_number(r"going on after (\d+) of"),
    ),
    "train": Verb(
        f"train --data ../inputs/data --epochs {_EPOCHS} --threads 1 --out run --seed {_SEED}",
        _training,
        older=(f"train --data ../inputs/data --epochs {_EPOCHS} --threads 1 --out run --seed {_SEED + 1}",),
        over="--force",
        again=_resume_or_force,
        found=_epochs_found,
    ),
    "export": Verb(
        _NEW_BUNDLE,
        _bundle,
        older=(_OTHER_BUNDLE,),
        over="--force",
        again=lambda folder: "--force" if (folder / "x.star").exists() else "",
    ),
    "calibrate": Verb(_CALIBRATE, _bundle, start=(_NEW_BUNDLE,), older=(f"{_CALIBRATE} --method max",)),
    "analyze": Verb(
        _ANALYZE,
        _analysis,
        start=(_NEW_BUNDLE, _CALIBRATE),
        older=(f"{_ANALYZE} --samples {_OTHER_CLIPS}",),
        found=_number(r"(\d+) of \d+ layers were measured before"),
    ),
}
