"""Quantisation-aware training: what it quantises, that it computes what INT8 will compute, and that it resumes exactly."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("modelopt.torch.quantization", reason="modelopt.torch is not installed: pip install 'star-edge[qat]'")

from calibration.calibrate import calibrate_bundle  # noqa: E402
from exporters.onnx.graph import quantised_modules  # noqa: E402
from runtime.bundle import Bundle  # noqa: E402
from runtime.errors import InputError, MismatchError  # noqa: E402
from runtime.features import FeatureRecipe  # noqa: E402
from runtime.tolerances import TOLERANCES, relative_error  # noqa: E402
from star_edge.data import open_dataset  # noqa: E402
from star_edge.engines import open_engine  # noqa: E402
from star_edge.export import export_checkpoint  # noqa: E402
from star_edge.models.registry import star_config  # noqa: E402
from star_edge.models.star import Star  # noqa: E402
from star_edge.skeletons import NITE15  # noqa: E402
from star_edge.training.batches import featurise  # noqa: E402
from star_edge.training.checkpoint import (  # noqa: E402
    Checkpoint,
    DataEntry,
    ModelEntry,
    build_from_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from star_edge.training.evaluate import model_logits  # noqa: E402
from star_edge.training.fake_quant import find_ranges, get_ranges, insert_quantisers, quantised_products, set_ranges  # noqa: E402
from star_edge.training.qat import QatTrainer  # noqa: E402
from star_edge.training.recipe import DEFAULT, QAT, continued_recipe  # noqa: E402

CLASSES = ("down", "up", "still")
SPLIT = "xsub"
CONFIG = star_config("star-64", NITE15, 9, len(CLASSES), dim=16, heads=4, layers=2, hidden=24)


def write_data(path: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    """Clips of 1 to 12 rows by six subjects."""
    rng = np.random.default_rng(0)
    lengths = np.array([1, *rng.integers(2, 13, 35)], dtype=np.int32)
    labels = np.arange(36, dtype=np.int32) % len(classes)
    joints = rng.normal(0, 0.3, (lengths.sum(), 15, 3)).astype(np.float32)
    joints[:, 5, 1] += np.repeat(labels, lengths)
    subjects, edges = np.arange(36, dtype=np.int32) // 6 + 1, np.array(NITE15.bones, dtype=np.int32)
    np.savez(path, xyz=joints, lengths=lengths, labels=labels, subjects=subjects, edges=edges, class_names=np.array(classes))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("qat") / "data.npz")


def offset_norms(weights: dict[str, torch.Tensor], offset: float) -> None:
    """An offset that each encoder's first normalisation adds, and linear1 and the second one take away: coarse steps for INT8."""
    for layer in range(CONFIG.layers):
        for branch in ("spatial", "temporal"):
            path = f"layers.{layer}.{branch}"
            weights[f"{path}.norm1.bias"] += offset
            weights[f"{path}.linear1.bias"] -= offset * weights[f"{path}.linear1.weight"].sum(1)


def write_start(data: Path, path: Path, offset: float) -> Path:
    """Checkpoint of an untrained model."""
    torch.manual_seed(0)
    weights = Star(CONFIG).state_dict()
    offset_norms(weights, offset)
    entry = DataEntry(str(data), "small", SPLIT, open_dataset(data).meta.sha256)
    recipe = {"augmentation": {}, "label_smoothing": 0.0, "dropout": 0.0, "head_dropout": 0.0}
    checkpoint = Checkpoint(ModelEntry("star-64", CONFIG), weights, NITE15, FeatureRecipe(), CLASSES, entry, recipe=recipe)
    save_checkpoint(checkpoint, path)
    return path


@pytest.fixture
def start(data: Path, tmp_path: Path) -> Path:
    """A model on which INT8 loses much."""
    return write_start(data, tmp_path / "start.pt", 20.0)


def trainer(start: Path, out: Path, **changes: object) -> QatTrainer:
    return QatTrainer.of(start, None, None, out, **{"epochs": 2, "frames_per_batch": 40, **changes})


def quantised(checkpoint: Checkpoint) -> Star:
    """The checkpoint's model with fake quantisers at its trained ranges."""
    assert checkpoint.quantisation is not None
    model = build_from_checkpoint(checkpoint)
    insert_quantisers(model)
    set_ranges(model, checkpoint.quantisation.ranges)
    return model


def test_it_quantises_what_the_int8_model_does() -> None:
    model = Star(CONFIG)
    before = set(model.state_dict())
    insert_quantisers(model)
    assert list(quantised_products(model)) == [
        module for module, _ in model.named_modules() if module in quantised_modules(CONFIG)
    ]
    assert len(quantised_products(model)) == 14
    added = set(model.state_dict()) - before
    assert added == {f"{module}.input_quantizer._amax" for module in quantised_modules(CONFIG)}


def test_rounding_is_that_of_int8() -> None:
    """Inputs per tensor, weights per output channel, both to amax / 127; a weight's range follows the weight."""
    model = Star(CONFIG)
    insert_quantisers(model)
    product = quantised_products(model)["head.output"]
    product.input_quantizer.amax = torch.tensor(2.0)
    rng = np.random.default_rng(0)
    for gain in (1.0, 5.0):
        weight, x = rng.normal(0, gain, (3, 24)), rng.normal(0, 1.5, (7, 24))
        product.weight.data = torch.from_numpy(weight).float()
        scales = np.abs(weight).max(1, keepdims=True) / 127
        x_scale = 2.0 / 127
        expected = (np.clip(np.round(x / x_scale), -128, 127) * x_scale) @ (np.round(weight / scales) * scales).T
        found = product(torch.from_numpy(x).float()) - product.bias
        np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-4 * gain)


def test_ranges_are_those_of_calibration(start: Path, data: Path, tmp_path: Path) -> None:
    """The torch model and the ONNX graph see the same activations, and mse cuts them alike."""
    export_checkpoint(start, tmp_path / "start.star")
    calibrate_bundle(tmp_path / "start.star", method="mse")
    table = Bundle.open(tmp_path / "start.star").calibration()
    model = build_from_checkpoint(load_checkpoint(start))
    insert_quantisers(model)
    dataset = open_dataset(data)
    clips = [dataset.clip(clip) for clip in dataset.indices(SPLIT, "train")]
    features, cu_seqlens = featurise(clips, NITE15, FeatureRecipe())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = find_ranges(model, lambda: [(torch.from_numpy(features), torch.from_numpy(cu_seqlens))])
    assert found.keys() == {f"{module}.in" for module in quantised_modules(CONFIG)}
    assert found == pytest.approx({key: table.ranges[key] for key in found}, rel=1e-2)  # a value may fall into the next bin
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(product.input_quantizer.is_enabled for product in quantised_products(model).values())


def test_training_lowers_the_loss_as_quantised(data: Path, tmp_path: Path) -> None:
    losses: list[float] = []
    start = write_start(data, tmp_path / "start.pt", 0.0)
    trainer(start, tmp_path / "run", epochs=10, lr=3e-3).run(lambda epoch: losses.append(epoch.loss))
    assert losses[-1] < 0.8 * losses[0]


def test_the_checkpoint_is_an_ordinary_one(start: Path, tmp_path: Path) -> None:
    path = trainer(start, tmp_path / "run").run()
    saved, began = load_checkpoint(path), load_checkpoint(start)
    assert torch.load(path, weights_only=True)["schema"] == "star-edge/checkpoint/1"
    assert saved.state_dict.keys() == began.state_dict.keys()
    assert any(not torch.equal(saved.state_dict[name], began.state_dict[name]) for name in saved.state_dict)
    assert saved.quantisation is not None
    assert saved.quantisation.start == str(start)
    assert saved.quantisation.ranges.keys() == {f"{module}.in" for module in quantised_modules(CONFIG)}
    assert (saved.data.split, saved.data.fitted, saved.recipe["name"]) == (SPLIT, ("train",), "qat")
    assert began.quantisation is None


def test_the_epoch_kept_is_the_best_as_quantised(start: Path, data: Path, tmp_path: Path) -> None:
    saved = load_checkpoint(trainer(start, tmp_path / "run", epochs=3, lr=3e-3).run())
    dataset = open_dataset(data)
    clips = dataset.indices(SPLIT, "val")
    logits = model_logits(quantised(saved), [dataset.clip(clip) for clip in clips], NITE15, saved.features)
    assert saved.metrics["validation_accuracy"] == (logits.argmax(1) == dataset.labels[clips]).mean()


def test_the_bundles_int8_computes_what_was_trained(start: Path, data: Path, tmp_path: Path) -> None:
    saved_path = trainer(start, tmp_path / "run").run()
    saved = load_checkpoint(saved_path)
    export_checkpoint(saved_path, tmp_path / "trained.star")
    report = calibrate_bundle(tmp_path / "trained.star")
    bundle = Bundle.open(tmp_path / "trained.star")
    assert saved.quantisation is not None
    trained, table = saved.quantisation.ranges, bundle.calibration()
    assert report.method == table.method == "trained"
    assert {key: table.ranges[key] for key in trained} == trained
    assert len(table.ranges) > len(trained)  # of custom ops too
    engine = open_engine(bundle, "onnxruntime", precision="int8", threads=1)
    dataset = open_dataset(data)
    clips = [dataset.clip(clip) for clip in dataset.indices(SPLIT, "test")]
    features, cu_seqlens = featurise(clips, NITE15, saved.features)
    int8 = engine.run(features, cu_seqlens)
    fake = model_logits(quantised(saved), clips, NITE15, saved.features)
    float_logits = model_logits(build_from_checkpoint(saved), clips, NITE15, saved.features)
    assert relative_error(int8, fake) < TOLERANCES["int8"]
    assert relative_error(int8, fake) < 0.1 * relative_error(int8, float_logits)


def test_best_tries_the_trained_ranges_too(start: Path, tmp_path: Path) -> None:
    export_checkpoint(trainer(start, tmp_path / "run", epochs=1).run(), tmp_path / "trained.star")
    scores = calibrate_bundle(tmp_path / "trained.star", method="best").scores
    assert {score.method for score in scores} == {"entropy", "max", "mse", "percentile", "trained"}


def test_a_bundle_without_trained_ranges_says_so(start: Path, tmp_path: Path) -> None:
    export_checkpoint(start, tmp_path / "start.star")
    with pytest.raises(InputError, match="no trained ranges"):
        calibrate_bundle(tmp_path / "start.star", method="trained")
    assert calibrate_bundle(tmp_path / "start.star").method == "mse"


def test_trained_ranges_belong_to_their_weights(start: Path, tmp_path: Path) -> None:
    path = tmp_path / "trained.star"
    export_checkpoint(trainer(start, tmp_path / "run", epochs=1).run(), path)
    bundle = Bundle.open(path)
    assert bundle.manifest.source.trained is not None
    for changed in ({"weights_sha256": "0" * 64}, {"ranges": {"head.output.in": 1.0}}):
        trained = msgspec.structs.replace(bundle.manifest.source.trained, **changed)
        source = msgspec.structs.replace(bundle.manifest.source, trained=trained)
        (path / "manifest.json").write_bytes(msgspec.structs.replace(bundle.manifest, source=source).to_bytes())
        with pytest.raises(MismatchError, match="do not belong to the bundle's weights"):
            calibrate_bundle(path)


def test_resume_after_a_kill_gives_the_same_checkpoint(start: Path, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(epoch: object) -> None:
        raise Killed

    whole = load_checkpoint(trainer(start, tmp_path / "whole", epochs=3).run())
    with pytest.raises(Killed):
        trainer(start, tmp_path / "parts", epochs=3).run(kill)
    continued = trainer(start, tmp_path / "parts", epochs=3)
    continued.resume()
    assert continued.epoch == 1
    parts = load_checkpoint(continued.run())
    assert whole.quantisation == parts.quantisation
    assert whole.metrics == parts.metrics
    for name, tensor in whole.state_dict.items():
        torch.testing.assert_close(tensor, parts.state_dict[name], atol=0, rtol=0)
    states = [torch.load(tmp_path / run / "last.pt", weights_only=True)["weights"] for run in ("whole", "parts")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_resume_refuses_another_start(start: Path, tmp_path: Path) -> None:
    trainer(start, tmp_path / "run", epochs=1).run()
    other = load_checkpoint(start)
    other.state_dict["head.output.bias"] += 1
    save_checkpoint(other, tmp_path / "other.pt")
    with pytest.raises(MismatchError, match="another start"):
        trainer(tmp_path / "other.pt", tmp_path / "run", epochs=1).resume()


def change(start: Path, target: Path, edit: Callable[[Checkpoint], object]) -> Path:
    checkpoint = load_checkpoint(start)
    edit(checkpoint)
    save_checkpoint(checkpoint, target)
    return target


def test_what_does_not_fit_the_checkpoint_is_refused(start: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(MismatchError, match="another split"):
        QatTrainer.of(start, data, "other", out)
    with pytest.raises(MismatchError, match="other classes"):
        QatTrainer.of(start, write_data(tmp_path / "data.npz", ("down", "up", "round")), None, out)
    with pytest.raises(InputError, match="would be overwritten"):
        QatTrainer.of(Path(shutil.copy(start, tmp_path / "ckpt.pt")), None, None, tmp_path)
    with pytest.raises(InputError, match="recipe has a wrong field"):
        trainer(change(start, tmp_path / "bad.pt", lambda c: c.recipe.update(label_smoothing="much")), out)


def test_the_recipe_is_that_of_the_model_with_small_steps() -> None:
    features = FeatureRecipe(channels=3)
    trained = {"label_smoothing": 0.3, "lr": 1.0, "seed": 5, "name": "mine"}
    recipe = continued_recipe("star-64", trained, features, QAT, epochs=3)
    assert (recipe.name, recipe.label_smoothing, recipe.epochs, recipe.features) == ("qat", 0.3, 3, features)
    assert recipe.lr < DEFAULT.lr
    assert (recipe.dropout, recipe.ema) == (DEFAULT.dropout, DEFAULT.ema)


def test_nothing_is_printed(start: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = trainer(start, tmp_path / "run").model
    assert get_ranges(model).keys()
    assert capfd.readouterr() == ("", "")
