"""TensorRT-RTX as a proof that plugin-free graphs parse, type-check and build: it needs no GPU and comes from PyPI.

It has no plugins and none of Jetson's GPUs, so what it builds runs nowhere here and is not kept; a graph it refuses would fail on
a board too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from exporters.tensorrt.builder import build_engine
from exporters.tensorrt.graphs import graph_of
from runtime.errors import MissingDependencyError
from runtime.tensorrt.buckets import BUCKETS, Bucket

if TYPE_CHECKING:
    from runtime.bundle import Bundle


class RtxBuild(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that was built with one profile a bucket: its size, layers parsed, products with a 2:4 weight, the builder's seconds."""

    precision: str
    profiles: tuple[Bucket, ...]
    engine_bytes: int
    layers: int
    seconds: float
    version: str
    sparse_products: int = 0


def import_rtx() -> Any:
    """The module ``tensorrt_rtx``; MissingDependencyError without it."""
    try:
        import tensorrt_rtx
    except ImportError:
        raise MissingDependencyError("tensorrt-rtx-cu13", "tensorrt-rtx", "Building with TensorRT-RTX") from None
    return tensorrt_rtx


def build_rtx(
    bundle: Bundle, precision: str, buckets: Sequence[Bucket] = BUCKETS, int8_ops: Collection[str] | None = None
) -> RtxBuild:
    """Build a bundle's model without plugins, in every bucket; raises as :func:`build_engine` and :func:`import_rtx`."""
    trt = import_rtx()
    built = build_engine(trt, graph_of(bundle, precision, "tensorrt-rtx", int8_ops), buckets)
    return RtxBuild(
        precision=precision,
        profiles=tuple(buckets),
        engine_bytes=len(built.plan),
        layers=built.network_layers,
        seconds=built.seconds,
        version=str(trt.__version__),
        sparse_products=built.sparse_products,
    )
