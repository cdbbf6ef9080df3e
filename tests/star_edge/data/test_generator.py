"""Generated recordings: real files for the reader, plausible bodies, the same bytes for a seed, every class in every part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.errors import InputError
from runtime.readers.ntu import parse_ntu, read_ntu
from star_edge.data import open_dataset
from star_edge.data.generator import CLASS_NAMES, MAX_FRAMES, MIN_FRAMES, GeneratedClip, generate, generate_clip
from star_edge.skeletons import NTU25


def clean(label: int, seed: int = 0, frames: int = 64, performer: int = 1) -> GeneratedClip:
    return generate_clip(np.random.default_rng(seed), label, frames=frames, performer=performer, defects=False)


def printed(xyz: np.ndarray) -> np.ndarray:
    """What seven digits leave of coordinates."""
    return np.array([float(f"{value:.7g}") for value in xyz.ravel()]).astype(np.float32).reshape(xyz.shape)


@pytest.mark.parametrize("label", range(len(CLASS_NAMES)))
def test_round_trip_is_exact_to_the_printed_digits(label: int) -> None:
    clip = clean(label, seed=label)
    recording = parse_ntu(clip.text().encode())
    bodies = {printed(body.xyz).tobytes() for body in clip.bodies}
    persons = np.split(recording.clip.joints, len(clip.bodies))
    assert recording.clip.person_lengths == (64,) * len(clip.bodies)
    assert {person.tobytes() for person in persons} == bodies


def test_lost_joints_and_absent_frames_survive_the_text() -> None:
    found = {"lost": 0, "absent": 0, "ids": 0}
    for seed in range(60):
        clip = generate_clip(np.random.default_rng(seed), seed % len(CLASS_NAMES), frames=60)
        recording = parse_ntu(clip.text().encode())
        lost = sum(int((~body.xyz[body.present].any(axis=2)).sum()) for body in clip.bodies)
        assert int((~recording.clip.joints.any(axis=2)).sum()) == lost
        assert len(recording.clip) == sum(int(body.present.sum()) for body in clip.bodies)
        found["lost"] += lost > 0
        found["absent"] += recording.clip.dropped > 0
        found["ids"] += len(clip.bodies) > recording.persons
    assert min(found.values()) > 0, f"a kind of defect never came up: {found}"


def test_bodies_are_human() -> None:
    for performer in (1, 8, 15):
        for body in clean(0, performer=performer).bodies:
            head, foot = body.xyz[:, 3, 1], body.xyz[:, [15, 19], 1].min(axis=1)
            assert 1.3 < np.median(head - foot) < 2.0
            bones = np.array(
                [np.linalg.norm(body.xyz[:, child] - body.xyz[:, parent], axis=-1) for child, parent in NTU25.bones]
            )
            assert bones.std(axis=1).max() < 0.02, "bones keep their length but for noise"
            assert (body.xyz[..., 2] > 0.5).all(), "in front of the camera"


def test_performers_differ_and_keep_their_size() -> None:
    def back(performer: int, seed: int) -> float:
        xyz = clean(0, seed, performer=performer).bodies[0].xyz
        return float(np.linalg.norm(xyz[:, 20] - xyz[:, 0], axis=-1).mean())

    assert back(1, 0) == pytest.approx(back(1, 1), abs=0.01)
    assert abs(back(1, 0) - back(2, 0)) > 0.01


def height(label: int, joint: int, frames: slice) -> float:
    """Mean height of a joint over the pelvis in part of a clip, averaged over seeds."""
    clips = [clean(label, seed).bodies[0].xyz for seed in range(8)]
    return float(np.mean([(xyz[frames, joint, 1] - xyz[frames, 0, 1]).mean() for xyz in clips]))


def test_pairs_are_the_same_poses_in_the_other_order() -> None:
    first, last, right_hand = slice(0, 4), slice(-4, None), 11
    up, down = CLASS_NAMES.index("raise right arm"), CLASS_NAMES.index("lower right arm")
    assert height(up, right_hand, last) - height(up, right_hand, first) > 0.5
    assert height(down, right_hand, first) - height(down, right_hand, last) > 0.5
    assert height(up, right_hand, last) == pytest.approx(height(down, right_hand, first), abs=0.25)
    hip, knee = slice(0, 4), slice(-4, None)
    sit, stand = CLASS_NAMES.index("sit down"), CLASS_NAMES.index("stand up")
    assert height(sit, 13, hip) == pytest.approx(height(stand, 13, knee), abs=0.1)
    assert height(sit, 13, knee) == pytest.approx(height(stand, 13, hip), abs=0.1)
    assert height(sit, 13, knee) - height(sit, 13, hip) > 0.2


def test_circles_turn_opposite_ways() -> None:
    """The area the right hand's path encloses, seen along the arm, changes its sign."""

    def area(label: int, seed: int) -> float:
        xyz = clean(label, seed, frames=90).bodies[0].xyz
        across = xyz[:, 8] - xyz[:, 4]
        across[:, 1] = 0
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        hand = (xyz[:, 10] - xyz[:, 8])[20:70]
        x, y = (hand * across[20:70]).sum(1), hand[:, 1]
        x, y = x - x.mean(), y - y.mean()
        return float((x[:-1] * np.diff(y) - y[:-1] * np.diff(x)).sum())

    clockwise, anticlockwise = CLASS_NAMES.index("circle clockwise"), CLASS_NAMES.index("circle anticlockwise")
    for seed in range(5):
        assert area(clockwise, seed) * area(anticlockwise, seed) < 0


def test_two_persons_come_close() -> None:
    for name in ("approach", "push"):
        one, two = clean(CLASS_NAMES.index(name)).bodies
        distance = np.linalg.norm(one.xyz[:, 0] - two.xyz[:, 0], axis=-1)
        assert distance.min() < distance[0] - 0.1
        assert distance.min() > 0.3


@pytest.mark.parametrize("frames", [1, 2, 3, 31, 300])
def test_any_length(frames: int) -> None:
    for label in range(len(CLASS_NAMES)):
        clip = generate_clip(np.random.default_rng(label), label, frames=frames)
        assert clip.text().startswith(f"{frames}\n")
        assert all(np.isfinite(body.xyz).all() for body in clip.bodies)


def test_folder_is_deterministic_and_fills_every_part(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "other")]
    for folder, seed in zip(folders, (3, 3, 4), strict=True):
        generate(folder, 60, seed)
    contents = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]
    dataset = open_dataset(folders[0])
    assert dataset.meta.name == "generated"
    assert dataset.meta.class_names == CLASS_NAMES
    for part in ("train", "val", "test"):
        assert set(dataset.labels[dataset.indices("xsub", part)].tolist()) == set(range(len(CLASS_NAMES)))
    frames = np.array([read_ntu(file).frames for file in folders[0].glob("*.skeleton")])
    assert MIN_FRAMES <= frames.min() <= np.median(frames) < 80 < frames.max() <= MAX_FRAMES


def test_first_classes_only(tmp_path: Path) -> None:
    generate(tmp_path / "eight", 16, 0, classes=8)
    assert open_dataset(tmp_path / "eight").meta.class_names == CLASS_NAMES[:8]


def test_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    for folder, clips, classes in (("taken", 4, None), ("a", 0, None), ("a", 4, 0), ("a", 4, 99)):
        with pytest.raises(InputError):
            generate(tmp_path / folder, clips, 0, classes)
