"""Workloads by name: generated clips of exactly the named lengths."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

import numpy as np

from exporters.onnx.golden import moving_body
from runtime.clip import Clip, pack_clips
from runtime.errors import InputError
from runtime.features import FeatureRecipe, compute_features
from runtime.skeleton import Skeleton

DEFAULT_WORKLOADS = ("1x32", "1x300", "1x300:2p", "mix8")
MIXES = {"mix8": (32, 60, 90, 120, 150, 200, 250, 300)}
_UNIFORM = re.compile(r"(?P<clips>[1-9]\d{0,3})x(?P<frames>[1-9]\d{0,4})(:(?P<persons>[1-4])p)?")


@dataclass(frozen=True)
class Workload:
    """Clips of known lengths.

    Attributes:
        name: as given by the user.
        frames: frames of each clip, B of them.
        persons: persons in each clip; a clip has ``frames * persons`` rows.
    """

    name: str
    frames: tuple[int, ...]
    persons: int = 1

    @property
    def clips(self) -> int:
        return len(self.frames)

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows of each clip."""
        return tuple(frames * self.persons for frames in self.frames)

    def make(self, skeleton: Skeleton, recipe: FeatureRecipe) -> tuple[np.ndarray, np.ndarray]:
        """Features float32 [F, V, C] and cu_seqlens int32 [B+1], the same in every process."""
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        clips = [
            Clip.from_persons([moving_body(skeleton, frames, rng) for _ in range(self.persons)], self.name)
            for frames in self.frames
        ]
        joints, cu_seqlens, person_lengths = pack_clips(clips)
        return compute_features(joints, person_lengths, skeleton, recipe), cu_seqlens


def parse_workload(name: str) -> Workload:
    """``1x300``: one clip of 300 rows; ``1x300:2p``: of two persons with 300 frames each; ``mix8``: eight clips of 32 to 300."""
    if name in MIXES:
        return Workload(name, MIXES[name])
    match = _UNIFORM.fullmatch(name)
    if match is None:
        raise InputError(
            f"unknown workload '{name}'",
            expected=f"CLIPSxFRAMES such as 1x300, CLIPSxFRAMES:PERSONSp such as 1x300:2p, or {', '.join(MIXES)}",
        )
    return Workload(name, (int(match["frames"]),) * int(match["clips"]), int(match["persons"] or 1))
