"""``star-edge import`` through the real entry point, and the verbs that follow it without a recorded dataset."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from foreign_files import CLASSES, FILES, shift_gcn, st_gcn_plus  # noqa: E402

from star_edge.skeletons import NITE15  # noqa: E402
from star_edge.training.checkpoint import load_checkpoint  # noqa: E402

LAYOUT = ("--skeleton", "nite15")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Folder with ``theirs.pth``, a file of PYSKL, and ``noise.npz``, 24 clips of its classes by six subjects."""
    torch.save({"meta": {"epoch": 16}, "state_dict": st_gcn_plus()}, tmp_path / "theirs.pth")
    rng, lengths = np.random.default_rng(0), np.full(24, 8)
    np.savez(tmp_path / "noise.npz", xyz=rng.normal(0, 0.3, (192, 15, 3)).astype(np.float32), lengths=lengths,
             labels=np.arange(24) % 4, subjects=np.arange(24) // 4 + 1, edges=np.array(NITE15.bones),
             class_names=np.array(CLASSES))  # fmt: skip
    return tmp_path


def test_the_report_says_what_the_file_became(star_edge, work) -> None:
    code, out, _ = star_edge(
        "import", "theirs.pth", *LAYOUT, "--classes", "noise.npz", "--frames", 7, "--persons", 1, "--json"
    )
    report = json.loads(out)
    saved = load_checkpoint(work / "theirs.pt")
    parameters = {name: tensor for name, tensor in saved.state_dict.items() if not name.endswith(("tracked", "mean", "var"))}
    assert code == 0
    assert (report["schema"], report["checkpoint"], report["kind"]) == ("star-edge/import/1", "theirs.pt", "st-gcn++")
    assert report["parameters"] == sum(tensor.numel() for tensor in parameters.values())
    assert (report["classes"], report["named"], report["frames"], report["persons"]) == (4, True, 7, 1)
    assert "turned upright" in report["differences"][0]
    assert saved.class_names == CLASSES


def test_the_last_lines_say_what_is_missing_and_what_comes_next(star_edge, work) -> None:
    code, out, _ = star_edge("import", "theirs.pth", *LAYOUT, "--out", "new.pt")
    assert code == 0
    assert "The classes have numbers, 'class 0' to 'class 3': --classes gives them names." in out
    assert out.splitlines()[-1] == (
        "new.pt: 4 classes; next: star-edge evaluate new.pt --data DATASET --split SPLIT, then star-edge export --fp16 new.pt"
    )


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("none.pth", *LAYOUT), "no such checkpoint"),
        (("noise.npz", *LAYOUT), "cannot be read"),
        (("short.pth", *LAYOUT), "cannot be read"),
        (("code.pth", *LAYOUT), "does not run code from files"),
        (("other.pth", *LAYOUT), "shift-gcn: l1.gcn1.Feature_Mask"),
        (("theirs.pth", "--skeleton", "ntu25"), "another number of joints"),
        (("theirs.pth", "--skeleton", "ntu26"), "unknown skeleton layout 'ntu26'"),
        (("theirs.pth", *LAYOUT, "--classes", "ntu60"), "another number of classes"),
        (("theirs.pth", *LAYOUT, "--classes", "ntu61"), "unknown list of classes 'ntu61'"),
        (("theirs.pth", *LAYOUT, "--heads", "4"), "no choice of heads"),
        (("theirs.pth", *LAYOUT, "--out", "theirs.pth", "--force"), "would be overwritten"),
        (("theirs.pth", *LAYOUT, "--out", "noise.npz"), "already there"),
    ],
)
def test_what_cannot_be_imported_is_refused_and_leaves_nothing(star_edge, work, arguments, part) -> None:
    (work / "short.pth").write_bytes((work / "theirs.pth").read_bytes()[:2000])
    torch.save({"state_dict": {"weight": Path("x")}}, work / "code.pth")
    torch.save({"conv.weight": torch.ones(2)}, work / "other.pth")
    before = {path: path.read_bytes() for path in work.iterdir()}
    code, _, err = star_edge("import", *arguments)
    assert code == 2
    assert part in err
    assert {path: path.read_bytes() for path in work.iterdir()} == before


def test_force_replaces(star_edge, work) -> None:
    (work / "theirs.pt").write_bytes(b"old")
    assert star_edge("import", "theirs.pth", *LAYOUT, "--force", "-q")[0] == 0
    assert load_checkpoint(work / "theirs.pt").model.name == "st-gcn++"


def test_evaluate_asks_for_data_and_split(star_edge, work) -> None:
    assert star_edge("import", "theirs.pth", *LAYOUT, "--classes", "noise.npz", "-q")[0] == 0
    for given in ((), ("--data", "noise.npz"), ("--split", "xsub")):
        code, _, err = star_edge("evaluate", "theirs.pt", *given)
        assert code == 2
        assert "--data and --split" in err
    code, out, _ = star_edge("evaluate", "theirs.pt", "--data", "noise.npz", "--split", "xsub", "--json")
    assert code == 0
    assert json.loads(out)["split"] == "xsub"


def test_compress_takes_the_split_that_is_named(star_edge, work) -> None:
    assert star_edge("import", "theirs.pth", *LAYOUT, "--classes", "noise.npz", "--frames", 7, "-q")[0] == 0
    tuned = ("--data", "noise.npz", "--split", "xsub", "--finetune", 1, "-q")
    assert star_edge("compress", "lowrank", "theirs.pt", "--rank", 2, *tuned)[0] == 0
    assert star_edge("compress", "sparse", "theirs.pt", "--sparsity", 0.5, *tuned)[0] == 0
    for made in ("runs/lowrank/ckpt.pt", "runs/sparse/ckpt.pt"):
        saved = load_checkpoint(work / made)
        assert (saved.data.split, saved.model.config.dropout, saved.recipe["dropout"]) == ("xsub", 0.0, 0.0)
    code, _, err = star_edge("compress", "sparse", "runs/lowrank/ckpt.pt", "--sparsity", 0.5, "--split", "all", "--out", "x")
    assert code == 4
    assert "trained on another split" in err


@pytest.mark.parametrize("kind", ["st-gcn++", "star"])
def test_export_calibrate_verify_and_run(star_edge, work, kind) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    pytest.importorskip("modelopt.onnx.quantization", reason="modelopt.onnx is not installed")
    torch.save(FILES[kind](), work / "theirs.pth")
    size = ("--heads", 4) if kind == "star" else ("--frames", 7)
    assert star_edge("import", "theirs.pth", *LAYOUT, "--classes", "noise.npz", *size, "-q")[0] == 0
    assert star_edge("export", "theirs.pt", "-q")[0] == 0
    for verb in ("calibrate", "verify"):
        code, _, err = star_edge(verb)
        assert code == 2
        assert f"star-edge {verb} --data DATASET" in err
    assert star_edge("calibrate", "--data", "noise.npz", "--samples", 4, "-q")[0] == 0
    assert star_edge("verify", "--data", "noise.npz", "--precision", "fp32", "-q")[0] == 0
    assert star_edge("run", "noise.npz", "--precision", "int8", "-q")[0] == 0
    assert star_edge("inspect", "theirs.pt")[0] == 0


def test_persons_of_shift_gcn_are_told_by_its_weights(star_edge, work) -> None:
    torch.save(shift_gcn(persons=2), work / "theirs.pth")
    code, out, _ = star_edge("import", "theirs.pth", *LAYOUT, "--json")
    assert (code, json.loads(out)["persons"]) == (0, 2)
