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


def height(name: str, joints: list[int], frames: slice) -> float:
    """Mean height over the pelvis of the highest of some joints in part of a clip, averaged over seeds."""
    clips = [clean(CLASS_NAMES.index(name), seed).bodies[0].xyz for seed in range(8)]
    return float(np.mean([(xyz[frames, joints, 1].max(axis=1) - xyz[frames, 0, 1]).mean() for xyz in clips]))


FIRST, LAST = slice(0, 4), slice(-4, None)


@pytest.mark.parametrize(
    ("one", "other", "joints", "moved"),
    [("lower arm", "raise arm", [7, 11], 0.5), ("stand up", "sit down", [13, 17], 0.2)],
)
def test_pairs_are_the_same_poses_in_the_other_order(one: str, other: str, joints: list[int], moved: float) -> None:
    assert height(one, joints, FIRST) - height(one, joints, LAST) > moved
    assert height(other, joints, LAST) - height(other, joints, FIRST) > moved
    assert height(one, joints, FIRST) == pytest.approx(height(other, joints, LAST), abs=0.25)
    assert height(one, joints, LAST) == pytest.approx(height(other, joints, FIRST), abs=0.1)


def test_circles_turn_opposite_ways() -> None:
    """The area that the hand's path encloses, seen from the performer's right, has the sign of the direction."""

    def area(name: str, seed: int) -> float:
        xyz = clean(CLASS_NAMES.index(name), seed, frames=90).bodies[0].xyz
        right = (xyz[:, 8] - xyz[:, 4]).mean(axis=0) * [1, 0, 1]
        forward = np.cross([0, 1, 0], right / np.linalg.norm(right))
        hands = xyz[:, [7, 11]] - xyz[:, [4, 8]]
        hand = hands[:, hands.std(axis=0).sum(axis=-1).argmax()]
        ahead, up = hand @ forward, hand[:, 1]
        return float((ahead[:-1] * np.diff(up) - up[:-1] * np.diff(ahead)).sum())

    for seed in range(5):
        assert area("circle arm backward", seed) > 0.5  # up in front, over the head, down behind
        assert area("circle arm forward", seed) < -0.5


def test_classes_do_not_depend_on_the_side() -> None:
    """Both arms and both legs act, so that mirroring a clip keeps its class."""
    limbs = {"raise arm": (7, 11), "wave hand": (7, 11), "swing leg": (14, 18), "circle arm forward": (7, 11)}
    for name, joints in limbs.items():
        sides = set()
        for seed in range(12):
            xyz = clean(CLASS_NAMES.index(name), seed).bodies[0].xyz
            sides.add(int((xyz[:, joints] - xyz[:, :1]).std(axis=0).sum(axis=-1).argmax()))
        assert sides == {0, 1}, name


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
