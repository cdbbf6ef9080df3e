"""The trtexec command that builds what ``star-edge build`` builds, for those who build by it. It counts no plugin layers."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from runtime.manifest import Manifest
from runtime.tensorrt.buckets import Bucket

# majors whose options differ: 11 types strongly without being told, and took the option's meaning away
MAJORS: tuple[int, ...] = (10, 11)


def trtexec(
    major: int,
    manifest: Manifest,
    buckets: Sequence[Bucket],
    graph: Path,
    engine: Path,
    plugins: Path,
    timing_cache: Path,
    sparse: bool = False,
) -> str:
    """One line for a shell.

    Args:
        major: of TensorRT.
        graph: of ``star-edge build --graph-only``. engine: to write. plugins: the library.
        sparse: whether the graph has products with a 2:4 weight.
    """
    words: list[str] = ["trtexec", f"--onnx={graph}", f"--saveEngine={engine}", f"--dynamicPlugins={plugins}"]
    words += ["--stronglyTyped"] if major < 11 else []
    words += ["--noTF32", "--profilingVerbosity=detailed", f"--timingCacheFile={timing_cache}"]
    words += ["--sparsity=enable"] if sparse else []
    for index, bucket in enumerate(buckets):
        frame = f"{manifest.skeleton.num_joints}x{manifest.features.channels}"
        shapes = f"features:{bucket.rows}x{frame},cu_seqlens:{bucket.clips + 1}"
        words += [f"--profile={index}", *(f"--{which}Shapes={shapes}" for which in ("min", "opt", "max"))]
    words.append("--skipInference")  # it would run on offsets that it makes up
    return shlex.join(words)
