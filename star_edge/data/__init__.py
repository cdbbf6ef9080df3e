"""Recordings, packed datasets, splits, and generated clips."""

from __future__ import annotations

from star_edge.data.convert import convert, open_dataset
from star_edge.data.dataset import Dataset, DatasetMeta

__all__ = ["Dataset", "DatasetMeta", "convert", "open_dataset"]
