"""Generated motion as genuine NTU ``.skeleton`` text files, for demos and tests that need no recordings.

A body is 25 joints moved by forward kinematics: bone lengths of the performer, joint angles of the action over time. The
actions come in pairs that no single frame tells apart: the same poses in the other order (raise, lower; sit down, stand up;
circle one way, the other), or share their timing and differ in the limb (wave a hand, swing a leg). None of them depends on
left or right, so that mirroring keeps the class. Performers differ in size and tempo, cameras in view, and
the sensor adds noise, guesses some joints, loses some, sometimes sees nobody, gives a person a new id, or finds one late.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from runtime.errors import InputError
from runtime.files import write_atomic
from runtime.readers.ntu import JOINTS, NtuName
from star_edge.data.sources import DESCRIPTION_FILE, DESCRIPTION_SCHEMA, FolderDescription

FPS = 30.0
MIN_FRAMES, MAX_FRAMES = 32, 300
# performers of the NTU-60 training list and others in turn, so that a few clips a class already fill train, val and test
PERFORMERS = (1, 3, 2, 4, 6, 5, 8, 7, 9, 13, 10, 14, 15, 11, 16)
_MAX_REPETITIONS = 999
_FIRST_BODY_ID = 72057594037931101

LEFT, RIGHT = 0, 1
_OUTWARD = (-1.0, 1.0)  # sign of a sideways rotation that moves the left or right limb away from the body

# joint, joint it hangs from, segment that carries it, offset in metres (right, up, back) for a person of 1.75 m at rest
_BONES: tuple[tuple[int, int, str, tuple[float, float, float]], ...] = (
    (1, 0, "torso", (0.0, 0.31, 0.0)), (20, 1, "torso", (0.0, 0.22, 0.0)),
    (2, 20, "torso", (0.0, 0.08, 0.0)), (3, 2, "torso", (0.0, 0.14, -0.02)),
    (4, 20, "torso", (-0.17, -0.04, 0.0)), (5, 4, "upper_arm0", (0.0, -0.27, 0.0)), (6, 5, "forearm0", (0.0, -0.24, 0.0)),
    (7, 6, "forearm0", (0.0, -0.07, 0.0)), (21, 7, "forearm0", (0.0, -0.08, 0.0)), (22, 7, "forearm0", (0.03, -0.03, -0.03)),
    (8, 20, "torso", (0.17, -0.04, 0.0)), (9, 8, "upper_arm1", (0.0, -0.27, 0.0)), (10, 9, "forearm1", (0.0, -0.24, 0.0)),
    (11, 10, "forearm1", (0.0, -0.07, 0.0)), (23, 11, "forearm1", (0.0, -0.08, 0.0)), (24, 11, "forearm1", (-0.03, -0.03, -0.03)),
    (12, 0, "pelvis", (-0.08, -0.05, 0.0)), (13, 12, "thigh0", (0.0, -0.40, 0.0)), (14, 13, "shank0", (0.0, -0.38, 0.0)),
    (15, 14, "pelvis", (0.0, -0.06, -0.11)),
    (16, 0, "pelvis", (0.08, -0.05, 0.0)), (17, 16, "thigh1", (0.0, -0.40, 0.0)), (18, 17, "shank1", (0.0, -0.38, 0.0)),
    (19, 18, "pelvis", (0.0, -0.06, -0.11)),
)  # fmt: skip
_THIGH, _SHANK, _HIP_AND_FOOT = 0.40, 0.38, 0.11
_ARM_JOINTS, _LEG_JOINTS = (5, 6, 7, 9, 10, 11), (13, 14, 17, 18)
_EXTREMITIES = np.array([6, 7, 10, 11, 14, 15, 18, 19, 21, 22, 23, 24])  # what a sensor guesses or loses first


@dataclass
class _Pose:
    """Joint angles in radians over T frames; limbs are [2, T], left then right. Zero everywhere is standing at ease.

    Attributes:
        forward: metres the pelvis has moved ahead.
        lean: torso forward. turn: whole body about the vertical.
        flex, outward: upper arm raised forward, and sideways.
        elbow, lift: forearm bent forward, and bent sideways towards the outside.
        hip, knee: thigh raised forward, knee bent.
    """

    forward: np.ndarray
    lean: np.ndarray
    turn: np.ndarray
    flex: np.ndarray
    outward: np.ndarray
    elbow: np.ndarray
    lift: np.ndarray
    hip: np.ndarray
    knee: np.ndarray

    @classmethod
    def at_ease(cls, rng: np.random.Generator, frames: int) -> _Pose:
        """Standing with the small slow sway of a living person."""

        def sway(size: float, *limbs: int) -> np.ndarray:
            return _sway(rng, (*limbs, frames), size)

        return cls(
            forward=sway(0.01),
            lean=sway(0.02) + rng.normal(0, 0.04),
            turn=sway(0.03),
            flex=sway(0.04, 2) + rng.normal(0, 0.06, (2, 1)),
            outward=sway(0.03, 2) + rng.uniform(0.05, 0.2, (2, 1)),
            elbow=sway(0.05, 2) + rng.uniform(0.05, 0.35, (2, 1)),
            lift=np.zeros((2, frames)),
            hip=sway(0.01, 2),
            knee=np.abs(sway(0.02, 2)),
        )


@dataclass(frozen=True)
class _Performer:
    """Size of body, arms and legs relative to 1.75 m, tempo of movement, reach of gestures."""

    size: float
    arms: float
    legs: float
    tempo: float
    reach: float

    @classmethod
    def of(cls, number: int) -> _Performer:
        """The same person for the same number, whatever else is drawn."""
        rng = np.random.default_rng([number, 1750])
        low, high = np.array([0.88, 0.93, 0.93, 0.8, 0.88]), np.array([1.12, 1.07, 1.07, 1.25, 1.1])
        return cls(*(float(value) for value in rng.uniform(low, high)))


def _sway(rng: np.random.Generator, shape: tuple[int, ...], size: float) -> np.ndarray:
    """A sum of two slow sinusoids of random phase, amplitude about ``size``, along the last axis."""
    time = np.arange(shape[-1]) / FPS
    total = np.zeros(shape)
    for _ in range(2):
        rate, phase = rng.uniform(0.15, 0.6, (*shape[:-1], 1)), rng.uniform(0, 2 * np.pi, (*shape[:-1], 1))
        total += size * np.sin(2 * np.pi * rate * time + phase)
    return total


def _ramp(rng: np.random.Generator, frames: int, begin: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    """A smooth rise from 0 to 1 that starts and ends at shares of the clip drawn from the given ranges, [T]."""
    start, stop = rng.uniform(*begin), rng.uniform(*end)
    share = np.clip((np.linspace(0, 1, frames) - start) / (stop - start), 0, 1)
    return share * share * (3 - 2 * share)


def _slow_ramp(rng: np.random.Generator, frames: int) -> np.ndarray:
    return _ramp(rng, frames, (0.02, 0.25), (0.6, 0.95))


def _raise_arm(rng: np.random.Generator, pose: _Pose, who: _Performer, down: bool) -> None:
    side = int(rng.integers(2))
    share = _slow_ramp(rng, len(pose.lean))
    top = who.reach * rng.uniform(2.2, 2.8)
    sideways = rng.uniform(0, 0.5)
    share = 1 - share if down else share
    pose.flex[side] += share * top * (1 - sideways)
    pose.outward[side] += share * top * sideways


def _swing(rng: np.random.Generator, frames: int, who: _Performer) -> tuple[np.ndarray, np.ndarray]:
    """When a limb is held out, 0 to 1, and its swing to and fro, -1 to 1, both [T]: one timing for hand and leg."""
    held = _ramp(rng, frames, (0.0, 0.1), (0.15, 0.3)) * (1 - _ramp(rng, frames, (0.75, 0.85), (0.9, 1.0)))
    turns = max(who.tempo * rng.uniform(1.2, 1.8) * frames / FPS, 1.2)
    return held, np.sin(2 * np.pi * (rng.uniform() + turns * np.linspace(0, 1, frames)))


def _wave(rng: np.random.Generator, pose: _Pose, who: _Performer) -> None:
    side = int(rng.integers(2))
    held, swing = _swing(rng, len(pose.lean), who)
    pose.outward[side] += held * rng.uniform(1.0, 1.5)
    pose.lift[side] += held * (1.4 + 0.5 * who.reach * swing)


def _swing_leg(rng: np.random.Generator, pose: _Pose, who: _Performer) -> None:
    side = int(rng.integers(2))
    held, swing = _swing(rng, len(pose.lean), who)
    pose.hip[side] += held * (0.35 + 0.45 * who.reach * swing)
    pose.knee[side] += held * 0.3 * (1 - swing)
    pose.lean -= held * 0.08


def _sit(rng: np.random.Generator, pose: _Pose, who: _Performer, up: bool) -> None:
    share = _slow_ramp(rng, len(pose.lean))
    share = 1 - share if up else share
    pose.hip += share * rng.uniform(1.3, 1.6)
    pose.knee += share * rng.uniform(1.4, 1.6)
    pose.lean += 4 * share * (1 - share) * rng.uniform(0.4, 0.7)
    pose.flex += share * rng.uniform(0.2, 0.5)
    pose.elbow += share * rng.uniform(0.4, 0.8)


def _circle(rng: np.random.Generator, pose: _Pose, who: _Performer, direction: int) -> None:
    """Whole turns of a stretched arm; direction 1 goes up in front and down behind."""
    frames, side = len(pose.lean), int(rng.integers(2))
    turns = max(1, round(who.tempo * rng.uniform(0.6, 0.9) * frames / FPS))
    pose.flex[side] += direction * 2 * np.pi * turns * _ramp(rng, frames, (0.0, 0.08), (0.92, 1.0))
    pose.outward[side] += rng.uniform(0.05, 0.25)
    pose.elbow[side] *= 0.3


def _walk(rng: np.random.Generator, pose: _Pose, who: _Performer, path: np.ndarray) -> None:
    """Move ahead along ``path`` metres [T], legs and arms swinging with the speed."""
    speed = np.abs(np.diff(path, prepend=path[0])) * FPS
    stride = np.clip(speed / 0.8, 0, 1)
    angle = 2 * np.pi * (np.abs(path - path[0]) / (1.2 * who.legs) + rng.uniform())
    for side, sign in enumerate(_OUTWARD):
        pose.hip[side] += 0.4 * sign * stride * np.sin(angle)
        pose.knee[side] += 0.6 * stride * np.clip(np.sin(angle + sign * np.pi / 2), 0, 1)
        pose.flex[side] -= 0.35 * sign * stride * np.sin(angle)
    pose.forward += path


def _approach(rng: np.random.Generator, actor: _Pose, other: _Pose, who: _Performer) -> float:
    start, stop = rng.uniform(1.8, 2.6), rng.uniform(0.75, 1.0)
    _walk(rng, actor, who, (start - stop) * _slow_ramp(rng, len(actor.lean)))
    return start


def _push(rng: np.random.Generator, actor: _Pose, other: _Pose, who: _Performer) -> float:
    frames = len(actor.lean)
    start, contact = rng.uniform(0.9, 1.4), rng.uniform(0.65, 0.75)
    _walk(rng, actor, who, (start - contact) * _ramp(rng, frames, (0.0, 0.1), (0.25, 0.4)))
    thrust = _ramp(rng, frames, (0.35, 0.42), (0.48, 0.55)) * (1 - _ramp(rng, frames, (0.65, 0.75), (0.85, 1.0)))
    ready = _ramp(rng, frames, (0.1, 0.2), (0.25, 0.35)) * (1 - _ramp(rng, frames, (0.65, 0.75), (0.85, 1.0)))
    actor.flex += ready * 0.5 + thrust * 0.9
    actor.elbow += ready * 1.6 - thrust * 1.5
    actor.lean += thrust * 0.25
    back = _ramp(rng, frames, (0.45, 0.5), (0.6, 0.75))
    _walk(rng, other, who, -rng.uniform(0.3, 0.6) * back)
    other.lean -= 4 * back * (1 - back) * rng.uniform(0.2, 0.4)
    return start


@dataclass(frozen=True)
class _Action:
    """A class: one person moves by ``alone``, or two by ``together``, which returns their distance at the start in metres."""

    name: str
    alone: Callable[[np.random.Generator, _Pose, _Performer], None] | None = None
    together: Callable[[np.random.Generator, _Pose, _Pose, _Performer], float] | None = None


_ACTIONS = (
    _Action("raise arm", lambda rng, pose, who: _raise_arm(rng, pose, who, down=False)),
    _Action("lower arm", lambda rng, pose, who: _raise_arm(rng, pose, who, down=True)),
    _Action("wave hand", _wave),
    _Action("swing leg", _swing_leg),
    _Action("sit down", lambda rng, pose, who: _sit(rng, pose, who, up=False)),
    _Action("stand up", lambda rng, pose, who: _sit(rng, pose, who, up=True)),
    _Action("approach", together=_approach),
    _Action("push", together=_push),
    _Action("circle arm backward", lambda rng, pose, who: _circle(rng, pose, who, 1)),
    _Action("circle arm forward", lambda rng, pose, who: _circle(rng, pose, who, -1)),
)
CLASS_NAMES: tuple[str, ...] = tuple(action.name for action in _ACTIONS)


@dataclass(frozen=True)
class Body:
    """One body id as the sensor reports it.

    Attributes:
        identity: body id.
        xyz: float64 [T, 25, 3], metres in camera coordinates, y up, z depth; exact zeros where a joint is lost.
        states: int [T, 25], 2 tracked, 1 inferred, 0 lost.
        present: bool [T], frames in which the id is reported.
    """

    identity: int
    xyz: np.ndarray
    states: np.ndarray
    present: np.ndarray


@dataclass(frozen=True)
class GeneratedClip:
    """One generated recording: class, performer, and the bodies in the order they are written."""

    label: int
    frames: int
    bodies: tuple[Body, ...]

    def text(self) -> str:
        """The recording as NTU ``.skeleton`` text; joint orientations, which nothing reads, are zero as for end joints."""
        columns = [_columns(body) for body in self.bodies]
        lines = [f"{self.frames}\n"]
        for frame in range(self.frames):
            seen = [i for i, body in enumerate(self.bodies) if body.present[frame]]
            lines.append(f"{len(seen)}\n")
            lines += [_BODY_FORMAT % (self.bodies[i].identity, *columns[i][frame]) for i in seen]
        return "".join(lines)


_JOINT_FORMAT = "%.7g %.7g %.7g %.7g %.7g %.7g %.7g 0 0 0 0 %d\n"
_BODY_FORMAT = f"%d 0 1 1 1 1 0 0 0 2\n{JOINTS}\n" + _JOINT_FORMAT * JOINTS


def _columns(body: Body) -> list[list[float]]:
    """The numbers of each frame: x y z, depth pixel, colour pixel (pinhole cameras of a Kinect v2), state."""
    x, y, z = np.moveaxis(body.xyz, -1, 0)
    seen = z > 0
    depth = np.where(seen, z, 1.0)
    across, upward = np.where(seen, x / depth, 0), np.where(seen, y / depth, 0)
    pixels = [258 + 365 * across, 206 - 365 * upward, 965 + 1063 * across, 540 - 1063 * upward]
    pixels = [np.where(seen, pixel, 0) for pixel in pixels]
    table: list[list[float]] = np.stack([x, y, z, *pixels, body.states], axis=-1).reshape(len(x), -1).tolist()
    return table


def generate_clip(
    rng: np.random.Generator,
    label: int,
    *,
    frames: int | None = None,
    performer: int = 1,
    camera: int = 1,
    defects: bool = True,
) -> GeneratedClip:
    """One recording of class ``label`` (index into CLASS_NAMES).

    Args:
        rng: everything random but the performer's body.
        label: class.
        frames: length; else short-biased between 32 and 300, median about 48.
        performer: 1-based; a performer has the same body and tempo in every clip.
        camera: 1 in front, 2 and 3 at 45 degrees to either side.
        defects: lost and guessed joints, frames without a body, changing ids, late and passing bodies.
    """
    action, who = _ACTIONS[label], _Performer.of(performer)
    count = frames if frames is not None else _draw_length(rng)
    actor = _Pose.at_ease(rng, count)
    people: list[np.ndarray] = []
    if action.alone is not None:
        action.alone(rng, actor, who)
        people.append(_joints(actor, who, heading=rng.normal(0, 0.25), place=np.zeros(3)))
    elif action.together is not None:
        other, partner = _Pose.at_ease(rng, count), _Performer.of(performer + 1000)
        distance = action.together(rng, actor, other, who)
        heading = rng.choice([-0.5, 0.5]) * np.pi + rng.normal(0, 0.2)
        ahead = _turn(np.array(heading)) @ np.array([0.0, 0.0, -1.0])
        people.append(_joints(actor, who, heading, -ahead * distance / 2))
        people.append(_joints(other, partner, heading + np.pi, ahead * distance / 2))
        if rng.uniform() < 0.5:
            people.reverse()
    people = _view(rng, people, camera)
    bodies = [
        _sense(rng, joints, _FIRST_BODY_ID + int(rng.integers(800)) + 1000 * i, defects) for i, joints in enumerate(people)
    ]
    return GeneratedClip(label, count, tuple(_defects(rng, bodies, count) if defects else bodies))


def _draw_length(rng: np.random.Generator) -> int:
    if rng.uniform() < 0.02:
        return int(rng.integers(150, MAX_FRAMES + 1))
    return int(min(MIN_FRAMES + rng.exponential(22), MAX_FRAMES))


def _turn(angle: np.ndarray) -> np.ndarray:
    return _rotation(angle, 1)


def _rotation(angle: np.ndarray, axis: int) -> np.ndarray:
    """Rotation matrices [..., 3, 3] about x, y or z by ``angle`` [...], right-handed."""
    matrix = np.zeros((*np.shape(angle), 3, 3))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[..., axis, axis] = 1
    matrix[..., i, i] = matrix[..., j, j] = np.cos(angle)
    matrix[..., j, i] = np.sin(angle)
    matrix[..., i, j] = -matrix[..., j, i]
    return matrix


def _joints(pose: _Pose, who: _Performer, heading: float, place: np.ndarray) -> np.ndarray:
    """Forward kinematics: [T, 25, 3] in metres, x right, y up from the floor, z away from where heading 0 faces."""
    pelvis = _rotation(heading + pose.turn, 1)
    segments = {"pelvis": pelvis, "torso": pelvis @ _rotation(-pose.lean, 0)}
    for side, sign in enumerate(_OUTWARD):
        upper = segments["torso"] @ _rotation(sign * pose.outward[side], 2)
        segments[f"upper_arm{side}"] = upper = upper @ _rotation(pose.flex[side], 0)
        segments[f"forearm{side}"] = upper @ _rotation(sign * pose.lift[side], 2) @ _rotation(pose.elbow[side], 0)
        segments[f"thigh{side}"] = pelvis @ _rotation(pose.hip[side], 0)
        segments[f"shank{side}"] = pelvis @ _rotation(pose.hip[side] - pose.knee[side], 0)
    xyz = np.zeros((len(pose.lean), JOINTS, 3))
    # a foot stays on the floor: the pelvis sinks and moves back as both legs bend
    below = _THIGH * np.cos(pose.hip) + _SHANK * np.cos(pose.hip - pose.knee)
    ahead = _THIGH * np.sin(pose.hip) + _SHANK * np.sin(pose.hip - pose.knee)
    xyz[:, 0, 1] = who.size * (who.legs * below.max(0) + _HIP_AND_FOOT)
    forward = pose.forward - who.size * who.legs * np.clip(ahead, 0, None).min(0)
    xyz[:, 0] += place + forward[:, None] * (_turn(np.array(heading)) @ np.array([0.0, 0.0, -1.0]))
    for joint, parent, segment, offset in _BONES:
        length = who.size * (who.arms if joint in _ARM_JOINTS else who.legs if joint in _LEG_JOINTS else 1.0)
        xyz[:, joint] = xyz[:, parent] + segments[segment] @ (length * np.array(offset))
    return xyz


def _view(rng: np.random.Generator, people: list[np.ndarray], camera: int) -> list[np.ndarray]:
    """The scene in the coordinates of a camera that looks at it from 2.4 to 3.8 m."""
    angle = {1: 0.0, 2: np.pi / 4, 3: -np.pi / 4}[camera] + rng.normal(0, 0.12)
    tilt, height = rng.normal(0, 0.04), rng.uniform(0.8, 1.2)
    matrix = _rotation(np.array(tilt), 0) @ _turn(np.array(angle))
    place = np.array([rng.normal(0, 0.25), -height, rng.uniform(2.4, 3.8)])
    return [joints @ matrix.T + place for joints in people]


def _sense(rng: np.random.Generator, joints: np.ndarray, identity: int, defects: bool) -> Body:
    """What the sensor makes of true joints [T, 25, 3]: noise everywhere, and with defects guessed and lost joints."""
    frames = len(joints)
    xyz = joints + rng.normal(0, 0.004, joints.shape) + _sway(rng, (JOINTS, 3, frames), 0.003).transpose(2, 0, 1)
    states = np.full((frames, JOINTS), 2)
    if defects:
        for joint in rng.choice(_EXTREMITIES, 4, replace=False):
            rows = _run(rng, frames, 0.3)
            xyz[rows, joint] += rng.normal(0, 0.03, 3) + rng.normal(0, 0.012, (len(rows), 3))
            states[rows, joint] = 1
        if rng.uniform() < 0.15:
            for joint in rng.choice(_EXTREMITIES, int(rng.integers(1, 4)), replace=False):
                rows = _run(rng, frames, 0.25)
                xyz[rows, joint], states[rows, joint] = 0.0, 0
    return Body(identity, xyz, states, np.ones(frames, dtype=bool))


def _run(rng: np.random.Generator, frames: int, share: float) -> np.ndarray:
    """Indices of a random stretch of at least one and at most ``share`` of the frames."""
    length = int(rng.integers(1, max(2, int(share * frames) + 1)))
    start = int(rng.integers(0, max(1, frames - length + 1)))
    return np.arange(start, min(start + length, frames))


def _defects(rng: np.random.Generator, bodies: list[Body], frames: int) -> list[Body]:
    """Rare faults of tracking: nobody seen, a second person found late, a person under two ids, somebody passing behind."""
    if frames < MIN_FRAMES:
        return bodies
    if len(bodies) == 2 and rng.uniform() < 0.15:
        bodies[1].present[: int(rng.integers(2, frames // 6))] = False
    if len(bodies) == 1 and rng.uniform() < 0.06:
        first, at = bodies[0], int(rng.integers(frames // 4, 3 * frames // 4))
        early = np.arange(frames) < at
        bodies = [
            Body(first.identity, first.xyz, first.states, early),
            Body(first.identity + 500, first.xyz, first.states, ~early),
        ]
    elif len(bodies) == 1 and rng.uniform() < 0.03:
        present = np.zeros(frames, dtype=bool)
        present[_run(rng, frames, 0.3)] = True
        stranger = _joints(
            _Pose.at_ease(rng, frames), _Performer.of(2000), rng.normal(0, 1), np.array([1.4, -1.0, 4.2])
        )  # behind, to the side
        sensed = _sense(rng, stranger, _FIRST_BODY_ID + 5000, defects=False)
        bodies = [*bodies, Body(sensed.identity, sensed.xyz, sensed.states, present)]
    if rng.uniform() < 0.05:
        blind = _run(rng, frames, 0.08)
        for body in bodies:
            body.present[blind] = False
    return bodies


def generate(folder: Path, clips: int, seed: int, classes: int | None = None) -> None:
    """Write ``clips`` recordings as NTU ``.skeleton`` files, the same bytes for the same arguments.

    Classes and performers take turns, so that three clips a class already fill train, val and test of the cross-subject
    split. ``recordings.json`` names the set and its classes for the reader.

    Args:
        folder: made if absent; raises InputError if it holds anything.
        clips: how many, at least one.
        seed: of everything random but the performers' bodies.
        classes: use the first so many of CLASS_NAMES, else all.
    """
    count = len(CLASS_NAMES) if classes is None else classes
    if not 1 <= count <= len(CLASS_NAMES):
        raise InputError("no such number of classes", found=count, expected=f"1 to {len(CLASS_NAMES)}")
    most = count * len(PERFORMERS) * _MAX_REPETITIONS
    if not 1 <= clips <= most:
        raise InputError("no such number of clips", found=clips, expected=f"1 to {most}")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InputError("the folder holds something already", where=folder, expected="a new or empty folder")
    for index in range(clips):
        label, turn = index % count, index // count
        performer, repetition = PERFORMERS[turn % len(PERFORMERS)], 1 + turn // len(PERFORMERS)
        camera = 1 + (turn + label) % 3
        clip = generate_clip(np.random.default_rng([seed, index]), label, performer=performer, camera=camera)
        name = NtuName(1 + performer % 4, camera, performer, repetition, label + 1)
        (folder / f"{name}.skeleton").write_text(clip.text(), encoding="ascii", newline="\n")
    description = FolderDescription(DESCRIPTION_SCHEMA, "generated", "generated, free to use", CLASS_NAMES[:count], FPS)
    write_atomic(folder / DESCRIPTION_FILE, msgspec.json.format(msgspec.json.encode(description), indent=2) + b"\n")
