"""Packed clips brought to a fixed size, against loops over clips, persons and frames; and what every padded model shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed")

from runtime.packing import cu_seqlens_of  # noqa: E402
from star_edge.models.config import PaddedConfig  # noqa: E402
from star_edge.models.padded import Padding  # noqa: E402
from star_edge.models.rounded_padded import RoundedPadded  # noqa: E402
from tests.fakes.small_padded import CONFIG, small_padded  # noqa: E402

JOINTS = 3


def naive_padding(features: np.ndarray, clips: list[list[int]], config: PaddedConfig) -> np.ndarray:
    """[B, M, T, V, C] in float64, from the rows of each person of each clip."""
    out = np.zeros((len(clips), config.persons, config.frames, *features.shape[1:-1], features.shape[-1] - 1))
    start = 0
    for clip, persons in enumerate(clips):
        for person, rows in enumerate(persons):
            body = features[start : start + rows, :, :-1].astype(np.float64)
            start += rows
            if rows == 0 or person >= config.persons:
                continue
            for frame in range(config.frames):
                if config.time == "pad" and rows <= config.frames:
                    if frame < rows:
                        out[clip, person, frame] = body[frame]
                    continue
                place = min(max((frame + 0.5) * rows / config.frames - 0.5, 0), rows - 1)
                low = int(place)
                high = min(low + 1, rows - 1)
                out[clip, person, frame] = body[low] * (1 - (place - low)) + body[high] * (place - low)
    return out


@given(
    clips=st.lists(st.lists(st.integers(0, 15), min_size=1, max_size=3), min_size=1, max_size=4),
    persons=st.integers(1, 3),
    frames=st.integers(1, 9),
    time=st.sampled_from(["pad", "resample"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_padding_equals_loops(clips: list[list[int]], persons: int, frames: int, time: str, seed: int) -> None:
    config = PaddedConfig(JOINTS, 4, 2, ((1, 0), (2, 0)), 0, persons=persons, frames=frames, time=time)  # type: ignore[arg-type]
    rows = sum(map(sum, clips))
    features = np.random.default_rng(seed).normal(size=(rows, JOINTS, 4)).astype(np.float32)
    features[..., -1] = np.repeat([p for c in clips for p in range(len(c))], [n for c in clips for n in c])[:, None]
    cu_seqlens = cu_seqlens_of([sum(clip) for clip in clips])
    padded = Padding(config)(torch.from_numpy(features), torch.from_numpy(cu_seqlens))
    np.testing.assert_allclose(padded.numpy(), naive_padding(features, clips, config), atol=2e-5)


def test_a_clip_alone_equals_the_clip_in_a_batch() -> None:
    model = small_padded()
    rows = torch.randn(30, 25, 4)
    rows[..., -1] = 0
    with torch.no_grad():
        both = model(rows, torch.tensor([0, 11, 30], dtype=torch.int32))
        alone = [model(part, torch.tensor([0, len(part)], dtype=torch.int32))[0] for part in (rows[:11], rows[11:])]
    torch.testing.assert_close(both, torch.stack(alone), atol=1e-5, rtol=1e-5)


def test_an_empty_clip_has_finite_logits() -> None:
    with torch.no_grad():
        logits = small_padded()(torch.zeros(0, 25, 4), torch.tensor([0, 0], dtype=torch.int32))
    assert logits.shape == (1, CONFIG.classes)
    assert bool(logits.isfinite().all())


def test_persons_without_a_place_are_left_out() -> None:
    model = small_padded()
    rows = torch.randn(9, 25, 4)
    rows[:, :, -1] = torch.tensor([0.0] * 3 + [1.0] * 3 + [2.0] * 3)[:, None]
    with torch.no_grad():
        three = model(rows, torch.tensor([0, 9], dtype=torch.int32))
        two = model(rows[:6], torch.tensor([0, 6], dtype=torch.int32))
    torch.testing.assert_close(three, two)


class TestRounded:
    def test_near_the_model_and_not_equal(self) -> None:
        model = small_padded()
        rows, cu_seqlens = torch.randn(9, 25, 4), torch.tensor([0, 9], dtype=torch.int32)
        rows[..., -1] = 0
        with torch.no_grad():
            exact = model(rows, cu_seqlens)
        for precision, tolerance in (("fp16", 5e-3), ("bf16", 3e-2)):
            error = (RoundedPadded(model, precision)(rows, cu_seqlens) - exact).abs().max() / exact.abs().max()
            assert 0 < error < tolerance

    def test_an_overflow_is_found_in_its_module(self) -> None:
        model = small_padded()
        rows, cu_seqlens = torch.ones(9, 25, 4), torch.tensor([0, 9], dtype=torch.int32)
        rows[..., -1] = 0
        assert RoundedPadded(model, "fp16").first_overflow(rows, cu_seqlens) is None
        with torch.no_grad():
            model.temporal[0].weight.fill_(60000)
        assert RoundedPadded(model, "fp16").first_overflow(rows, cu_seqlens) == "temporal.0"
        assert RoundedPadded(model, "bf16").first_overflow(rows, cu_seqlens) is None
        with torch.no_grad():
            model.temporal[0].weight.fill_(70000)
        assert RoundedPadded(model, "fp16").first_overflow(rows, cu_seqlens) == "temporal.0.weight"
