"""Convolutions of real models -> the workspaces that cuDNN asks for, beside the estimate of `hardware.convolutions`.

cuDNN 9.8 and later answers which plan it would take, and how much workspace that needs, for a GPU that is described to
it (https://docs.nvidia.com/deeplearning/cudnn/frontend/latest/utilities/deviceless-ahead-of-time-compilation.html), so
that no GPU is needed to ask:

    python benchmarks/cudnn_workspaces.py --ask /path/to/site-packages/nvidia

writes its answers into ``data/cudnn_workspaces.csv``. PyTorch takes the first plan of cuDNN's instant heuristics that
can be had (ATen/native/cudnn/Conv_v8.cpp, run_single_conv), without those that round float32 to less than TF32. Without
``--ask`` the answers are compared with the estimate, and ``--page`` writes the tables into a page between its markers.

What a GPU is described by is what ``cudaGetDeviceProperties`` says of it; the convolutions are those of models of timm
and torchvision at batches of 2 to 64, without depthwise ones.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from foretrace.graph import Tensor
from foretrace.hardware import convolutions
from foretrace.hardware.convolutions import Convolution
from foretrace.hardware.gpu import Gpu, gpu_of
from foretrace.hardware.profile import load

DATA = Path(__file__).parent / "data" / "cudnn_workspaces.csv"
MARKERS = "<!-- cudnn_workspaces begins -->", "<!-- cudnn_workspaces ends -->"
SHAPES = ("input", "weight", "stride", "padding", "dilation")
MIB = 1 << 20


class Setting(NamedTuple):
    """On which GPU, in which dtype and layout, and whether float32 may be computed in TF32."""

    gpu: str
    dtype: str
    layout: str
    tf32: bool = True

    def __str__(self) -> str:
        precision = "" if self.dtype != "float32" else " (TF32)" if self.tf32 else " (no TF32)"
        return f"{self.gpu} {self.dtype}{precision} {self.layout}"


SETTINGS = (
    Setting("a100-sxm4-40gb", "float32", "NCHW"),
    Setting("a100-sxm4-40gb", "float32", "NHWC"),
    Setting("a100-sxm4-40gb", "bfloat16", "NCHW"),
    Setting("a100-sxm4-40gb", "bfloat16", "NHWC"),
    Setting("a100-sxm4-40gb", "float32", "NCHW", tf32=False),
    Setting("h100-sxm5-80gb", "float32", "NCHW"),
    Setting("h100-sxm5-80gb", "bfloat16", "NCHW"),
    Setting("t4", "float16", "NCHW"),
    Setting("t4", "float32", "NCHW", tf32=False),
)
PASSES: dict[str, Callable[..., int]] = {
    "forward": convolutions.forward_bytes,
    "input gradient": convolutions.input_gradient_bytes,
    "weight gradient": convolutions.weight_gradient_bytes,
}


@dataclass(frozen=True)
class Case:
    """One convolution of a model; `part` says whether it was looked at when the estimate was made."""

    part: str
    model: str
    input: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def result(self) -> tuple[int, ...]:
        """The shape of what comes out."""
        sizes = zip(self.input[2:], self.weight[2:], self.stride, self.padding, self.dilation, strict=True)
        return (
            self.input[0],
            self.weight[0],
            *((size + 2 * pad - step * (window - 1) - 1) // stride + 1 for size, window, stride, pad, step in sizes),
        )


def column(setting: Setting, name: str) -> str:
    """Where an answer stands in the table."""
    return f"{setting}, {name}"


def cases(rows: list[dict[str, str]]) -> list[Case]:
    """The convolutions of a table's rows."""
    return [
        Case(row["part"], row["model"], *(_shape(row[name]) for name in SHAPES), groups=int(row["groups"]))  # type: ignore[arg-type]
        for row in rows
    ]


def _shape(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("x")))


# -- the estimate ---------------------------------------------------------------------------------


def estimated(case: Case, setting: Setting, name: str, gpu: Gpu) -> int:
    """What `hardware.convolutions` says."""
    value, weight, result = (
        Tensor(0, setting.dtype, shape, strides(shape, setting.layout))
        for shape in (case.input, case.weight, case.result)
    )
    found: Convolution = convolutions.convolution(value, weight, result, case.groups)
    return PASSES[name](found, gpu, tf32=setting.tf32)


def strides(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """Of a dense tensor whose channels come first or last."""
    order = [*range(len(shape))] if layout == "NCHW" else [0, *range(2, len(shape)), 1]
    found, step = [0] * len(shape), 1
    for place in reversed(order):
        found[place], step = step, step * shape[place]
    return tuple(found)


# -- comparing ------------------------------------------------------------------------------------


def tables(rows: list[dict[str, str]]) -> Iterator[str]:
    """For both parts: how far the estimate is off, over all bytes and for the largest workspace of each model."""
    for part, title in (("seen", "Looked at while the estimate was made"), ("held out", "Held out")):
        chosen = [row for row in rows if row["part"] == part]
        models = sorted({row["model"] for row in chosen})
        yield f"{title}: {len(chosen)} convolutions of {', '.join(models)}.\n"
        yield "| setting | largest of a model: median | worst | all forwards | input gradients | weight gradients |"
        yield "|---|---|---|---|---|---|"
        for setting in SETTINGS:
            yield _line(chosen, models, setting)
        yield ""


def _line(rows: list[dict[str, str]], models: list[str], setting: Setting) -> str:
    gpu = gpu_of(load(setting.gpu))
    both = [
        (row["model"], name, int(row[column(setting, name)]), estimated(case, setting, name, gpu))
        for row, case in zip(rows, cases(rows), strict=True)
        for name in PASSES
        if row[column(setting, name)]
    ]
    off = [_largest([(asked, said) for model, _, asked, said in both if model == one]) for one in models]
    cells = [f"{median(map(abs, off)):.0%}".replace("%", " %"), f"{max(off, key=abs):+.0%}".replace("%", " %")]
    for name in PASSES:
        asked = sum(a for _, what, a, _ in both if what == name)
        said = sum(s for _, what, _, s in both if what == name)
        cells.append(f"{asked / MIB:,.0f} MiB, said {said / MIB:,.0f}")
    return f"| {setting} | {' | '.join(cells)} |"


def _largest(pairs: list[tuple[int, int]]) -> float:
    """The error of a model's largest workspace, as a share of it or of one MiB."""
    asked, said = max(a for a, _ in pairs), max(s for _, s in pairs)
    return (said - asked) / max(asked, MIB)


# -- asking cuDNN ---------------------------------------------------------------------------------

DEVICES: dict[str, dict[str, Any]] = {
    "a100-sxm4-40gb": {
        "multiProcessorCount": 108,
        "maxSharedMemoryPerBlockOptin": 166_912,
        "reservedSharedMemoryPerBlock": 1024,
        "maxCtasPerSM": 32,
        "maxThreadsPerSM": 2048,
        "totalGlobalMem": 42_298_834_944,
        "smClockRateKHz": 1_410_000,
        "memClockRateKHz": 1_215_000,
        "l2CacheSize": 41_943_040,
        "deviceVer": 800,
        "deviceName": "NVIDIA A100-SXM4-40GB",
    },
    "h100-sxm5-80gb": {
        "multiProcessorCount": 132,
        "maxSharedMemoryPerBlockOptin": 232_448,
        "reservedSharedMemoryPerBlock": 1024,
        "maxCtasPerSM": 32,
        "maxThreadsPerSM": 2048,
        "totalGlobalMem": 85_031_714_816,
        "smClockRateKHz": 1_980_000,
        "memClockRateKHz": 2_619_000,
        "l2CacheSize": 52_428_800,
        "deviceVer": 900,
        "deviceName": "NVIDIA H100 80GB HBM3",
    },
    "t4": {
        "multiProcessorCount": 40,
        "maxSharedMemoryPerBlockOptin": 65_536,
        "reservedSharedMemoryPerBlock": 0,
        "maxCtasPerSM": 16,
        "maxThreadsPerSM": 1024,
        "totalGlobalMem": 15_843_721_216,
        "smClockRateKHz": 1_590_000,
        "memClockRateKHz": 5_001_000,
        "l2CacheSize": 4_194_304,
        "deviceVer": 750,
        "deviceName": "Tesla T4",
    },
}
"""What differs between the GPUs; the rest is in `COMMON`."""
COMMON: dict[str, Any] = {
    "maxGridSize": [2_147_483_647, 65_535, 65_535],
    "maxBlockSize": [1024, 1024, 64],
    "regsPerBlock": 65_536,
    "smCountOrigin": 0,
    "warpSize": 32,
    "maxSharedMemoryPerBlock": 49_152,
    "maxRegistersPerSM": 65_536,
    "maxThreadsPerBlock": 1024,
    "pciDeviceId": 0,
    "isTccDriver": 0,
    "supportCoopLaunch": 1,
    "cudaDeviceId": 0,
    "driverVer": 13_000,
}

# Numbers of cudnn_graph.h.
CONVOLUTION, ENGINE, CONFIG, HEURISTICS, PLAN, GRAPH, TENSOR, DEVICE = 1, 2, 3, 4, 5, 15, 17, 38
CHAR, INT64, FLOAT, DATA_TYPE, MODE, HEURISTIC_MODE, NOTE, DESCRIPTOR = 24, 3, 4, 1, 7, 8, 11, 15
C_TYPES: dict[int, Any] = {
    INT64: ctypes.c_int64,
    FLOAT: ctypes.c_float,
    DATA_TYPE: ctypes.c_int,
    MODE: ctypes.c_int,
    HEURISTIC_MODE: ctypes.c_int,
    NOTE: ctypes.c_int,
    DESCRIPTOR: ctypes.c_void_p,
}
DTYPES = {"float32": 0, "float16": 2, "bfloat16": 9}
OPERATIONS = {"forward": (10, 700), "input gradient": (12, 706), "weight gradient": (11, 712)}
"""Descriptor of the operation, and the first of its attributes: alpha, beta, convolution, then weight,
input and result or their gradients."""
INSTANT, FALLBACK = 0, 2
USES_TENSOR_CORES, ROUNDS_INPUTS = 0, 1
MOST_CONFIGS = 64


class Refused(Exception):
    """cuDNN has no such plan."""


class Cudnn:
    """cuDNN's backend interface, as far as it needs no device. Descriptors live until `clear`."""

    def __init__(self, packages: Path) -> None:
        ctypes.CDLL(str(next(packages.glob("cu*/lib/libcudart.so.*"))), mode=ctypes.RTLD_GLOBAL)
        self._library = ctypes.CDLL(str(packages / "cudnn" / "lib" / "libcudnn.so.9"))
        self._made: list[ctypes.c_void_p] = []
        self._devices = {name: self._device(name) for name in DEVICES}
        self._made.clear()

    @property
    def version(self) -> int:
        """Such as 92400."""
        return int(self._library.cudnnGetVersion())

    def workspace(self, case: Case, setting: Setting, name: str) -> int | None:
        """Bytes of the first plan that can be had; None where there is none."""
        return next(iter(self.tried(case, setting, name, 1)), None)

    def tried(self, case: Case, setting: Setting, name: str, limit: int) -> list[int]:
        """Bytes of each of the first `limit` plans that can be had."""
        try:
            device, graph = self._devices[setting.gpu], self._graph(case, setting, name)
            return list(islice(self._plans(graph, device, setting), limit))
        finally:
            while self._made:
                self._library.cudnnBackendDestroyDescriptor(self._made.pop())

    def _plans(self, graph: ctypes.c_void_p, device: ctypes.c_void_p, setting: Setting) -> Iterator[int]:
        for mode in (INSTANT, FALLBACK):
            for config in self._configs(graph, device, mode):
                notes = self._notes(config)
                if ROUNDS_INPUTS in notes or (not setting.tf32 and USES_TENSOR_CORES in notes):
                    continue
                try:
                    plan = self._new(PLAN, {401: (DESCRIPTOR, [config]), 407: (DESCRIPTOR, [device])})
                    yield self._number(plan, 402)
                except Refused:
                    continue

    def _configs(self, graph: ctypes.c_void_p, device: ctypes.c_void_p, mode: int) -> list[ctypes.c_void_p]:
        asked = {201: (DESCRIPTOR, [graph]), 200: (HEURISTIC_MODE, [mode]), 204: (DESCRIPTOR, [device])}
        try:
            heuristics = self._new(HEURISTICS, asked)
        except Refused:
            return []
        places = [self._create(CONFIG) for _ in range(MOST_CONFIGS)]
        return [ctypes.c_void_p(place) for place in self._get(heuristics, 202, DESCRIPTOR, [p.value for p in places])]

    def _notes(self, config: ctypes.c_void_p) -> list[int]:
        engine = self._get(config, 300, DESCRIPTOR, [self._create(ENGINE).value])[0]
        return self._get(ctypes.c_void_p(engine), 1303, NOTE, [0] * 16)

    def _number(self, descriptor: ctypes.c_void_p, attribute: int) -> int:
        return int(self._get(descriptor, attribute, INT64, [0])[0])

    def _graph(self, case: Case, setting: Setting, name: str) -> ctypes.c_void_p:
        tensors = {
            letter: self._tensor(ord(letter), shape, setting)
            for letter, shape in (("x", case.input), ("w", case.weight), ("y", case.result))
        }
        convolution = self._new(
            CONVOLUTION,
            {
                106: (INT64, [len(case.stride)]),
                100: (DATA_TYPE, [0]),
                101: (MODE, [1]),
                105: (INT64, case.padding),
                104: (INT64, case.padding),
                102: (INT64, case.dilation),
                103: (INT64, case.stride),
            },
        )
        kind, first = OPERATIONS[name]
        parts = {first + 3 + i: (DESCRIPTOR, [tensors[letter]]) for i, letter in enumerate("wxy")}
        settings = {first + 2: (DESCRIPTOR, [convolution]), first: (FLOAT, [1.0]), first + 1: (FLOAT, [0.0])}
        return self._new(GRAPH, {801: (DESCRIPTOR, [self._new(kind, {**parts, **settings})])})

    def _tensor(self, number: int, shape: tuple[int, ...], setting: Setting) -> ctypes.c_void_p:
        return self._new(
            TENSOR,
            {
                901: (DATA_TYPE, [DTYPES[setting.dtype]]),
                902: (INT64, shape),
                903: (INT64, strides(shape, setting.layout)),
                906: (INT64, [number]),
                900: (INT64, [16]),
            },
        )

    def _device(self, name: str) -> ctypes.c_void_p:
        text = json.dumps({**COMMON, **DEVICES[name]}).encode()
        descriptor = self._create(DEVICE)
        buffer = ctypes.create_string_buffer(text, len(text))
        self._check(
            self._library.cudnnBackendSetAttribute(descriptor, 2702, CHAR, ctypes.c_int64(len(text)), buffer), name
        )
        self._check(self._library.cudnnBackendFinalize(descriptor), name)
        return descriptor

    def _create(self, kind: int) -> ctypes.c_void_p:
        descriptor = ctypes.c_void_p()
        self._check(self._library.cudnnBackendCreateDescriptor(kind, ctypes.byref(descriptor)), "a descriptor")
        self._made.append(descriptor)
        return descriptor

    def _new(self, kind: int, attributes: dict[int, tuple[int, Any]]) -> ctypes.c_void_p:
        descriptor = self._create(kind)
        for attribute, (of_type, values) in attributes.items():
            plain = [v.value if isinstance(v, ctypes.c_void_p) else v for v in values]
            array = (C_TYPES[of_type] * len(plain))(*plain)
            status = self._library.cudnnBackendSetAttribute(
                descriptor, attribute, of_type, ctypes.c_int64(len(plain)), array
            )
            self._check(status, f"attribute {attribute}")
        self._check(self._library.cudnnBackendFinalize(descriptor), f"descriptor of kind {kind}")
        return descriptor

    def _get(self, descriptor: ctypes.c_void_p, attribute: int, of_type: int, room: list[Any]) -> list[Any]:
        array, count = (C_TYPES[of_type] * len(room))(*room), ctypes.c_int64()
        status = self._library.cudnnBackendGetAttribute(
            descriptor, attribute, of_type, ctypes.c_int64(len(room)), ctypes.byref(count), array
        )
        self._check(status, f"attribute {attribute}")
        return list(array)[: count.value]

    def _check(self, status: int, what: str) -> None:
        if status:
            raise Refused(f"cuDNN refuses {what}: status {status}")


def ask(packages: Path, rows: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """The rows with cuDNN's answers."""
    cudnn = Cudnn(packages)
    print(f"cuDNN {cudnn.version}")
    for row, case in zip(rows, cases(rows), strict=True):
        answers = {
            column(setting, name): cudnn.workspace(case, setting, name) for setting in SETTINGS for name in PASSES
        }
        kept = {name: row[name] for name in ("part", "model", *SHAPES, "groups")}
        yield {**kept, **{name: "" if size is None else str(size) for name, size in answers.items()}}


def _write(rows: list[dict[str, str]]) -> None:
    with open(DATA, "w", newline="", encoding="utf-8") as lines:
        table = csv.DictWriter(lines, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def main() -> None:
    """Ask cuDNN or compare what it answered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ask", type=Path, metavar="PACKAGES", help="the folder with nvidia's packages")
    parser.add_argument("--page", type=Path, help="the page to write the tables into")
    options = parser.parse_args()
    with open(DATA, newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    if options.ask:
        _write(rows := list(ask(options.ask, rows)))
    text = "\n".join(tables(rows))
    print(text)
    if options.page:
        page = options.page.read_text()
        before, rest = page.split(MARKERS[0])
        after = rest.split(MARKERS[1])[1]
        options.page.write_text(f"{before}{MARKERS[0]}\n\n{text}\n{MARKERS[1]}{after}")


if __name__ == "__main__":
    main()
