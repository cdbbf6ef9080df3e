"""Generated clips: plausible, the same every time, for every layout, with the odd things in them."""

from __future__ import annotations

import numpy as np
import pytest

from exporters.onnx.golden import golden_clips, make_golden, moving_body
from runtime.features import FeatureRecipe
from runtime.golden import Golden
from star_edge.skeletons import LAYOUTS, NTU25


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_golden_clips_cover_what_they_are_named_after(layout):
    clips = {clip.name: clip for clip in golden_clips(layout)}
    assert len(clips["one frame"]) == 1
    assert len(clips["longest"]) == max(len(clip) for clip in clips.values()) == 300
    assert len(clips["two persons"].person_lengths) == 2
    lost = (clips["lost joints"].joints == 0).all(-1)
    assert 0.1 < lost.mean() < 0.3
    assert not lost.all(0).any(), "no joint of that clip is lost for good"
    assert (clips["absent joint"].joints[:, -1] == 0).all()
    assert (clips["absent joint"].joints[:, 0] != 0).any()
    assert all(np.isfinite(clip.joints).all() for clip in clips.values())


def test_bodies_move_smoothly_and_stay_in_the_room():
    body = moving_body(NTU25, 300, np.random.default_rng(0))
    speed = np.linalg.norm(np.diff(body, axis=0), axis=-1) * 30
    assert 0.05 < np.median(speed) < 2  # metres a second
    assert speed.max() < 8
    assert np.abs(body).max() < 6
    bones = np.array(NTU25.bones)
    lengths = np.linalg.norm(body[:, bones[:, 0]] - body[:, bones[:, 1]], axis=-1)
    assert np.median(lengths) == pytest.approx(0.25, abs=0.1)


def test_golden_is_deterministic_and_keeps_the_reference_logits():
    def reference(features: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        return np.array([[features[start:stop].sum(), stop - start] for start, stop in
                         zip(cu_seqlens[:-1], cu_seqlens[1:], strict=True)], dtype=np.float64)  # fmt: skip

    one, other = (make_golden(NTU25, FeatureRecipe(), reference).to_bytes() for _ in range(2))
    assert one == other
    golden = Golden.from_bytes(one)
    assert golden.logits.dtype == np.float32
    assert golden.logits[:, 1].tolist() == np.diff(golden.cu_seqlens).tolist()
    assert set(golden.tolerances) == {"fp32", "fp16", "bf16", "int8"}
