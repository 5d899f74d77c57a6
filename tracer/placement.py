"""The recorded ops of a step for CUDA -> the places where a GPU would refuse tensors of two devices.

A trace goes on where an op is given tensors of the GPU and of the CPU together; a real step ends there, as not all are
on one device, unless the op is one of those that take both. Which these are is read from the declarations that come
with the installed torch (``native_functions.yaml``): an op with a kernel for CUDA refuses any tensor of another device,
unless it says ``device_check: NoCheck``; of those the ones that go by a TensorIterator refuse all but numbers, tensors
without a dimension (``TensorIteratorBase::compute_types``). What no declaration tells is not noted here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec

from ..graph import Tensor
from ..graph.op import tensors
from .frames import shorten
from .log import Log, Row

ALL, DIMENSIONED = "all", "dimensioned"

_FOUND_INSIDE = ("aten.embedding.default", "aten.convolution.default", "aten.convolution_backward.default")
"""Ops made of others for every device: index_select and cuDNN's convolutions, which refuse."""
_INDEXED = ("aten.index.", "aten.index_put", "aten._index_put_impl", "aten._unsafe_index")
"""Ops that take indices from the CPU for a tensor on the GPU (ATen/native/TensorAdvancedIndexing.cpp: make_info)."""


def misplaced(log: Log) -> list[str]:
    """What to note of the recorded step: the first place that a GPU would refuse, and how many more there are."""
    found: dict[str, str] = {}
    for row in log.rows:
        if row.forward is None and _is_refused(row, log.device_of):
            place = f"{shorten(row.code.co_filename)}:{row.line}" if row.code is not None else row.module
            found.setdefault(place or row.signature.name, row.signature.name)
    if not found:
        return []
    place, name = next(iter(found.items()))
    others = f", and so at {len(found) - 1} more" if len(found) > 1 else ""
    return [
        f"a GPU would refuse this step at {place}{others}: {name} is given tensors on the GPU and on the CPU; "
        "the figures are those of a step that goes on all the same"
    ]


def _is_refused(row: Row, device_of: list[str]) -> bool:
    if row.signature.told_from_lists:
        return False
    given = [tensor for value in row.args.values() for tensor in tensors(value)]
    if len({device_of[tensor.storage] for tensor in given}) < 2:
        return False
    given = [tensor for tensor in given if tensor.numel]
    if not {"cpu", "cuda:0"} <= {device_of[tensor.storage] for tensor in given}:
        return False
    if row.signature.name.startswith(_INDEXED):
        return _is_indexed_elsewhere(row, device_of)
    how = _refusing().get(row.signature.name)
    return how is ALL or (how is DIMENSIONED and any(t.shape for t in given if device_of[t.storage] == "cpu"))


def _is_indexed_elsewhere(row: Row, device_of: list[str]) -> bool:
    """A tensor on the CPU with an index on the GPU, or values on another device than what they go to."""
    target = row.args.get("self")
    assert isinstance(target, Tensor)
    own = device_of[target.storage]
    indices = {device_of[tensor.storage] for tensor in tensors(row.args.get("indices"))}
    values = {device_of[tensor.storage] for tensor in tensors(row.args.get("values")) if tensor.shape}
    return (own == "cpu" and not indices <= {own}) or not values <= {own}


@cache
def _refusing() -> Mapping[str, str]:
    """Ops that refuse tensors of two devices, by their full names: all such, or those with dimensions."""
    return dict(_declared()) | dict.fromkeys(_FOUND_INSIDE, ALL)


_CUDA_KERNEL = re.compile(r"^ {4}[\w, ]*\bCUDA\b[\w, ]*:", re.MULTILINE)


def _declared() -> Iterator[tuple[str, str]]:
    entries = re.split(r"^- func: ", _declarations(), flags=re.MULTILINE)[1:]
    with_kernel = {name for name, text in map(_named, entries) if _CUDA_KERNEL.search(text)}
    for name, text in map(_named, entries):
        delegate = re.search(r"^ {2}structured_delegate: (\S+)", text, re.M)
        check = re.search(r"^ {2}device_check: NoCheck(.*)", text, re.M)
        if check is not None and "TensorIterator" in check[1]:
            yield name, DIMENSIONED
        elif check is None and (name in with_kernel or (delegate and _full(delegate[1]) in with_kernel)):
            yield name, ALL


def _named(entry: str) -> tuple[str, str]:
    return _full(entry.partition("(")[0]), entry


def _full(name: str) -> str:
    packet, _, overload = name.partition(".")
    return f"aten.{packet}.{overload or 'default'}"


def _declarations() -> str:
    """The declarations of all native functions, empty where torch comes without them."""
    found = find_spec("torchgen")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        path = os.path.join(folder, "packaged", "ATen", "native", "native_functions.yaml")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                return file.read()
    return ""
