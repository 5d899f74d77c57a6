"""The ops of a step in order + a device's L2 -> how many bytes of each op are read from there and not from memory.

A kernel finds in L2 what was read or written *shortly before*: the *distance* of a tensor is what all kernels have
moved since the start of the last one that touched its storage. Up to ``cache_share.full`` of the L2's size all of it is
still there, from ``cache_share.none`` on nothing, and between the two a share that falls evenly, as a device that reads
a growing buffer over and over again shows.

Not covered: which of its lines a cache keeps, and writes, which all go to memory in the end, unless the storage is
overwritten first.
"""

from __future__ import annotations

from ..costmodels.work import Work
from ..graph.op import Op
from .constants import constants
from .profile import Profile


class Cache:
    """What is in L2 while a step runs. Ask for each op once, in order."""

    def __init__(self, profile: Profile) -> None:
        known = constants()
        self._full = profile.l2_bytes * known["cache_share.full"]
        self._none = profile.l2_bytes * known["cache_share.none"]
        self._moved = 0
        self._touched: dict[int, int] = {}

    def hits(self, op: Op, work: Work) -> int:
        """Bytes that `op` reads from L2; from now on its tensors are what was touched last."""
        touched, moved = self._touched, self._moved
        oldest = moved - self._none
        found = 0.0
        for tensor in op.inputs:
            before = touched.get(tensor.storage)
            if before is not None and before > oldest:
                found = sum(self._found(t.storage, t.touched_bytes) for t in {t.storage: t for t in op.inputs}.values())
                break
        for tensor in op.inputs:
            touched[tensor.storage] = moved
        for tensor in op.outputs:
            touched[tensor.storage] = moved
        self._moved = moved + work.bytes
        return min(int(found), work.read_bytes)

    def _found(self, storage: int, size: int) -> float:
        before = self._touched.get(storage)
        if before is None:
            return 0.0
        distance = self._moved - before
        return size * min(1.0, max(0.0, (self._none - distance) / (self._none - self._full)))
