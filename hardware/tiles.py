"""A `Problem` + a device -> the seconds of its kernel, from tiles, waves and the terms of the contraction.

A matrix kernel cuts its result into *tiles*; each runs on one multiprocessor, all of them in *waves* of as many tiles
as there are multiprocessors, and the last wave takes as long as a full one however few tiles it has. A tile costs its
FLOPs and a start as long as a few terms of the contraction; a smaller tile reuses less, so its multiprocessor does
less of its peak. Where tiles are few, the contraction may be split over several, whose sums are then added up in
memory. A library's heuristic mostly finds the fastest kernel; here it is the fastest of a short list.

The share of the peak that follows is never above the one that the profile gives for the largest tile.
"""

from __future__ import annotations

from functools import lru_cache
from math import log2

from .constants import Constants
from .problems import Problem

VECTOR_TILES = ((128, 128), (128, 64), (64, 128), (64, 64), (128, 32), (32, 128), (64, 32), (32, 32))
"""Of the float32 kernels named in github.com/sitar-lab/NeuSight@6945927d9afc:scripts/asplos/data/dataset/test."""

VECTOR_BATCHED_TILES = ((128, 128),)
"""The only one that batched float32 products were seen to use, there."""

CONVOLUTION_TILES = ((256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64))
TENSOR_TILES = (*CONVOLUTION_TILES, (64, 32), (32, 64), (32, 32))
"""Of tensor cores, for cuDNN and for cuBLAS: https://github.com/NVIDIA/cutlass/blob/main/media/docs/efficient_gemm.md."""

CONVOLUTIONS = ("convolution", "grouped")
UNTILED = ("depthwise", "grouped_direct", "grouped_channels_last")
"""Convolutions whose kernels cut their images otherwise: a share of the peak for each kind, of any size."""

SPLITS = (1, 2, 4, 8, 16)
ATTENTION_ROWS = 128
"""Queries (forward) or keys (backward) of one block of fused attention: https://arxiv.org/abs/2307.08691, 3.3."""


@lru_cache(maxsize=65_536)
def share_of_peak(
    problem: Problem,
    cores: str,
    best: float,
    multiprocessors: int,
    flops_per_byte: float,
    constants: Constants,
    fast: bool = False,
) -> float:
    """FLOP/s over the peak while `problem` runs; `best` is that of the largest tile in full waves.

    `flops_per_byte` is the peak over the achieved memory bandwidth, for the sums of a split contraction; `fast` tensor
    cores are those that convolutions do not keep fed.
    """
    if problem.kind == "attention":
        return _attention_share(problem, best, multiprocessors, constants)
    if problem.kind in UNTILED:
        return best * constants[f"product_share.{problem.kind}"]
    quality = best * (constants[f"product_share.{problem.kind}"] if problem.kind in CONVOLUTIONS else 1.0)
    if fast and problem.kind in CONVOLUTIONS:
        quality *= constants["product_share.fast_convolution"]
    if cores == "tensor" and not problem.aligned:
        quality *= constants["unaligned_share"]
    one_tile = cores == "vector" and problem.kind == "batched"
    loss = constants[f"tile_halving_loss.{cores}"]
    start = constants["tile_terms.vector_batched" if one_tile else f"tile_terms.{cores}"]
    tiles = _tiles(problem.kind, cores, one_tile)
    largest = log2(tiles[0][0] * tiles[0][1])
    fastest = float("inf")
    for rows, columns in tiles:
        share = quality * (1 - loss * (largest - log2(rows * columns)))
        count = problem.batch * -(-problem.m // rows) * -(-problem.n // columns)
        for split in SPLITS:
            if split > 1 and (
                problem.kind == "batched" or count * split > 4 * multiprocessors or problem.k < 64 * split
            ):
                break
            waves = -(-count * split // multiprocessors)
            flops = waves * multiprocessors * 2 * rows * columns * (-(-problem.k // split) + start) / share
            if split > 1:
                flops += (split + 1) * problem.batch * problem.m * problem.n * 4 * flops_per_byte
            fastest = min(fastest, flops)
    return min(best, problem.flops / fastest) if problem.flops else best


def _tiles(kind: str, cores: str, one_tile: bool) -> tuple[tuple[int, int], ...]:
    if cores == "tensor":
        return CONVOLUTION_TILES if kind in CONVOLUTIONS else TENSOR_TILES
    return VECTOR_BATCHED_TILES if one_tile else VECTOR_TILES


def _attention_share(problem: Problem, best: float, multiprocessors: int, constants: Constants) -> float:
    """Blocks of rows fill the device in waves, each as long as the other side, plus a start."""
    way = "backward" if problem.backward else "forward"
    over, along = (problem.n, problem.m) if problem.backward else (problem.m, problem.n)
    blocks = problem.batch * -(-over // ATTENTION_ROWS)
    full = blocks / (-(-blocks // multiprocessors) * multiprocessors)
    rows = over / (-(-over // ATTENTION_ROWS) * ATTENTION_ROWS)
    length = along / (along + ATTENTION_ROWS)
    return best * constants[f"product_share.attention_{way}"] * full * rows * length
