"""The description of a skeleton layout: joints, bones, root, left/right pairs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import msgspec
import numpy as np

from runtime.errors import InputError


class Skeleton(msgspec.Struct, frozen=True, dict=True):
    """A skeleton layout. Validate an untrusted one with :meth:`check`.

    Attributes:
        name: layout name, e.g. ``ntu25``.
        joints: joint names; their position is the joint index.
        bones: directed pairs (child, parent), 0-based; a tree over all joints that hangs from ``root``.
        root: joint that features are centred on.
        pairs: pairs (left, right) of joints exchanged by mirroring.
        dims: 3 for x, y, z in metres; 2 for x, y and a detection score.
    """

    name: str
    joints: tuple[str, ...]
    bones: tuple[tuple[int, int], ...]
    root: int
    pairs: tuple[tuple[int, int], ...] = ()
    dims: int = 3

    @property
    def num_joints(self) -> int:
        return len(self.joints)

    @cached_property
    def parents(self) -> np.ndarray:
        """int64 [V]: parent of each joint; the root is its own parent."""
        parents = np.arange(self.num_joints)
        for child, parent in self.bones:
            parents[child] = parent
        return parents

    @cached_property
    def mirror(self) -> np.ndarray:
        """int64 [V]: the joint each joint becomes when left and right are exchanged."""
        order = np.arange(self.num_joints)
        for left, right in self.pairs:
            order[left], order[right] = right, left
        return order

    def edges(self, hops: int = 3) -> tuple[tuple[int, int], ...]:
        """Attention edges (i, j): the union of A, A², ..., A^hops, each pair once, row by row.

        With ``hops`` >= 2 every joint attends to itself (A² has the diagonal). STAR, section 3.1: hops = 3,
        187 of 625 pairs for ``ntu25``.
        """
        adjacency = np.zeros((self.num_joints, self.num_joints), dtype=np.int64)
        for child, parent in self.bones:
            adjacency[child, parent] = adjacency[parent, child] = 1
        power, union = np.eye(self.num_joints, dtype=np.int64), np.zeros_like(adjacency)
        for _ in range(hops):
            power = np.minimum(power @ adjacency, 1)
            union |= power
        rows, cols = np.nonzero(union)
        return tuple((int(i), int(j)) for i, j in zip(rows, cols, strict=True))

    def check(self, where: object = None) -> Skeleton:
        """Return self if the layout is a tree with valid indices, else raise InputError."""
        count = self.num_joints

        def reject(found: object, expected: object) -> None:
            raise InputError(
                f"skeleton layout '{self.name}' is not usable",
                where=where,
                found=found,
                expected=expected,
                hint="star-edge inspect skeletons",
            )

        if count < 2:
            reject(f"{count} joints", "at least 2")
        if self.dims not in (2, 3):
            reject(f"dims = {self.dims}", "2 (x, y, score) or 3 (x, y, z)")
        if not 0 <= self.root < count:
            reject(f"root {self.root}", f"0 to {count - 1}")
        for pair in (*self.bones, *self.pairs):
            if not all(0 <= joint < count for joint in pair) or pair[0] == pair[1]:
                reject(f"pair {pair}", f"two different joints from 0 to {count - 1}")
        if sorted(child for child, _ in self.bones) != [j for j in range(count) if j != self.root]:
            reject("a joint without a parent or with two", "each joint but the root is the child of exactly one bone")
        for joint in range(count):
            seen = {joint}
            while joint != self.root:
                joint = int(self.parents[joint])
                if joint in seen:
                    reject(f"a cycle through joint {joint}", "a tree")
                seen.add(joint)
        return self


def bones_towards_root(pairs: Iterable[tuple[int, int]], root: int, num_joints: int) -> tuple[tuple[int, int], ...]:
    """Orient undirected bone pairs as (child, parent) towards ``root``.

    Raises InputError when the pairs do not connect every joint to the root.
    """
    neighbours: dict[int, list[int]] = {joint: [] for joint in range(num_joints)}
    for a, b in pairs:
        if not (0 <= a < num_joints and 0 <= b < num_joints):
            raise InputError("bone list names a joint that does not exist", found=(a, b), expected=f"0 to {num_joints - 1}")
        neighbours[a].append(b)
        neighbours[b].append(a)
    parents: dict[int, int] = {root: root}
    queue = [root]
    while queue:
        joint = queue.pop(0)
        for other in neighbours[joint]:
            if other not in parents:
                parents[other] = joint
                queue.append(other)
    if len(parents) != num_joints:
        missing = sorted(set(range(num_joints)) - set(parents))
        raise InputError("bone list does not reach every joint from the root", found=f"unreached joints {missing}")
    return tuple((child, parents[child]) for child in range(num_joints) if child != root)
