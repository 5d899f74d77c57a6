"""What was measured goes into a file of its own, and comes back as the surest tier; what cannot be is one line."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from foretrace.costmodels.work import Work
from foretrace.graph.errors import ForetraceError
from foretrace.graph.op import Op, Tensor
from foretrace.graph.phase import Phase
from foretrace.hardware import kernel_time, load
from foretrace.hardware.chrome_trace import measured_in
from foretrace.hardware.measured import Measurement, key_of, list_spec, to_toml
from foretrace.hardware.profile import FOLDER

A100 = load("a100-sxm4-80gb")


def cpu_op(name: str, number: int, start: float, length: float, dims: object, types: object, thread: int = 1) -> dict:
    args = {"External id": number, "Input Dims": dims, "Input type": types}
    return {"cat": "cpu_op", "name": name, "pid": 1, "tid": thread, "ts": start, "dur": length, "args": args}


def kernel(number: int, length: float, category: str = "kernel") -> dict:
    return {"cat": category, "name": "k", "ts": 0, "dur": length, "args": {"External id": number}}


SQUARE = [[8, 16], [16, 4]]
FLOATS = ["float", "float"]
DEVICE = {"name": "NVIDIA A100-SXM4-80GB", "totalGlobalMem": 84_990_623_744}


def trace(tmp_path: Path, events: list[dict], **top: object) -> Path:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"deviceProperties": [DEVICE], "traceEvents": events} | top))
    return path


IMAGE = [[2, 3, 8, 8], [4, 3, 3, 3], [], []]
CONVOLUTION = ["float", "float", "", "ScalarList"]
EVENTS = [
    cpu_op("aten::mm", 1, 0, 10, SQUARE, FLOATS),
    cpu_op("aten::mm", 2, 20, 10, SQUARE, FLOATS),
    cpu_op("aten::mm", 3, 40, 10, SQUARE, FLOATS),
    cpu_op("aten::convolution", 4, 60, 30, IMAGE, CONVOLUTION),
    cpu_op("aten::cudnn_convolution", 5, 65, 10, IMAGE[:2], FLOATS),
    cpu_op("aten::add_", 6, 80, 5, [[2, 4, 6, 6], [4]], ["float", "float"]),
    cpu_op("aten::view", 7, 100, 5, [[8, 16]], ["float"]),
    cpu_op("aten::_foreach_add_", 8, 110, 5, [[[8], [9]], []], ["TensorList", "Scalar"]),
    cpu_op("aten::mm", 9, 0, 10, SQUARE, ["c10::BFloat16", "c10::BFloat16"], thread=2),
    kernel(1, 5.0),
    kernel(2, 7.0),
    kernel(3, 6.0),
    kernel(5, 20.0),
    kernel(5, 1.0, "gpu_memset"),
    kernel(6, 2.0),
    kernel(8, 3.0),
    kernel(9, 1.5),
    {"ph": "M", "name": "process_name"},
]


def test_kernels_count_for_the_op_that_launched_them_and_all_around_it(tmp_path: Path) -> None:
    found = {
        one.key: (one.microseconds, one.low, one.high, one.calls) for one in measured_in(trace(tmp_path, EVENTS), A100)
    }
    image, weight = "float32[2, 3, 8, 8]", "float32[4, 3, 3, 3]"
    assert found == {
        ("aten.mm", ("float32[8, 16]", "float32[16, 4]")): (6.0, 5.0, 7.0, 3),
        ("aten.mm", ("bfloat16[8, 16]", "bfloat16[16, 4]")): (1.5, 1.5, 1.5, 1),
        ("aten.convolution", (image, weight)): (23.0, 23.0, 23.0, 1),
        ("aten.cudnn_convolution", (image, weight)): (21.0, 21.0, 21.0, 1),
        ("aten.add_", ("float32[2, 4, 6, 6]", "float32[4]")): (2.0, 2.0, 2.0, 1),
        ("aten._foreach_add_", ("tensors[2 x 17 b68e0a0a]",)): (3.0, 3.0, 3.0, 1),
    }


def test_a_packed_trace_reads_the_same(tmp_path: Path) -> None:
    plain = trace(tmp_path, EVENTS)
    packed = tmp_path / "packed" / "trace.json"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert measured_in(packed, A100) == measured_in(plain, A100)


def product(dtype: str = "float32") -> Op:
    left, right = Tensor(0, dtype, (8, 16), (16, 1)), Tensor(1, dtype, (16, 4), (4, 1))
    return Op(id=0, name="aten.mm.default", phase=Phase.FORWARD, args={"self": left, "mat2": right},
              result=Tensor(2, dtype, (8, 4), (4, 1)))  # fmt: skip


def test_a_measured_op_has_the_measured_time_and_others_have_their_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(to_toml("mine", "a100-sxm4-80gb", measured_in(trace(tmp_path, EVENTS), A100)))
    mine, work = load(path), Work(tensor_flops=2 * 8 * 16 * 4, read_bytes=768, written_bytes=128)
    time = kernel_time(work, product(), mine)
    assert (time.seconds, time.low_seconds, time.high_seconds) == pytest.approx((6e-6, 5e-6, 7e-6))
    assert time.tier == "measured"
    assert kernel_time(work, product("float16"), mine) == kernel_time(work, product("float16"), A100)
    assert kernel_time(work, product(), A100).tier != "measured"


def test_the_shipped_numbers_stay_and_the_measured_ones_stand_apart(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(to_toml('m"ine', "a100-sxm4-80gb", measured_in(trace(tmp_path, EVENTS), A100)))
    assert set(tomllib.loads(path.read_text())) == {"base", "name", "measured"}
    mine = load(path)
    assert (mine.name, mine.sm_count, len(mine.measured), len(A100.measured)) == ('m"ine', A100.sm_count, 6, 0)
    facts = [fact for fact in mine.facts() if fact.key.startswith("measured ")]
    assert len(facts) == 6 and all("trace.json, NVIDIA A100-SXM4-80GB" in fact.source for fact in facts)


def test_a_list_of_tensors_is_known_by_its_number_its_elements_and_its_shapes() -> None:
    eight, nine = (Tensor(0, "float32", (size,), (1,)) for size in (8, 9))

    def added(*tensors: object) -> Op:
        return Op(id=0, name="aten._foreach_add_.Scalar", phase=Phase.OPTIMIZER, result=None,
                  args={"self": tensors, "scalar": 1})  # fmt: skip

    assert key_of(added(eight, nine)) == ("aten._foreach_add_", (list_spec([(8,), (9,)]),))
    assert key_of(added(nine, eight)) != key_of(added(eight, nine))
    assert key_of(added(eight, None)) is None
    assert key_of(product()) == ("aten.mm", ("float32[8, 16]", "float32[16, 4]"))


def test_a_foreach_op_has_the_time_that_a_trace_of_the_same_list_has(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(to_toml("mine", "a100-sxm4-80gb", measured_in(trace(tmp_path, EVENTS), A100)))
    lists = Op(id=0, name="aten._foreach_add_.Scalar", phase=Phase.OPTIMIZER, result=None,
               args={"self": tuple(Tensor(0, "float32", (size,), (1,)) for size in (8, 9)), "scalar": 1})  # fmt: skip
    time = kernel_time(Work(vector_flops=17, read_bytes=68, written_bytes=68), lists, load(path))
    assert (time.seconds, time.tier) == (pytest.approx(3e-6), "measured")


def test_a_list_without_shapes_gives_no_measurement(tmp_path: Path) -> None:
    bare = [cpu_op("aten::_foreach_add_", 8, 110, 5, [[], []], ["TensorList", "Scalar"]), kernel(8, 3.0)]
    found = measured_in(trace(tmp_path, [*EVENTS[:-1][:1], kernel(1, 5.0), *bare]), A100)
    assert [one.op for one in found] == ["aten.mm"]


WITHOUT_SHAPES = [cpu_op("aten::mm", 1, 0, 10, [], []), kernel(1, 5.0)]


@pytest.mark.parametrize(
    ("events", "top", "said", "mend"),
    [
        (WITHOUT_SHAPES, {}, "has no input shapes", "record_shapes=True"),
        (EVENTS[:9], {}, "has no GPU kernels", "ProfilerActivity.CUDA"),
        (EVENTS[9:], {}, "has no ops of PyTorch", "ProfilerActivity.CPU"),
        (EVENTS, {"deviceProperties": [{"name": "NVIDIA H100 80GB HBM3", "totalGlobalMem": 85_018_279_936}]},
         "is of a device 'NVIDIA H100 80GB HBM3' with 79.2 GiB, and the profile is of NVIDIA A100-SXM4-80GB", "--on"),
        (EVENTS, {"deviceProperties": [{"name": "NVIDIA A100-PG509-200", "totalGlobalMem": 42_297_524_224}]},
         "with 39.4 GiB", "--on"),
        (EVENTS, {"traceEvents": 3}, "is no Chrome trace", "export_chrome_trace"),
    ],
)  # fmt: skip
def test_a_trace_that_cannot_tell(tmp_path: Path, events: list[dict], top: dict, said: str, mend: str) -> None:
    with pytest.raises(ForetraceError) as caught:
        measured_in(trace(tmp_path, events, **top), A100)
    assert said in caught.value.message and mend in caught.value.mend
    assert "\n" not in caught.value.message


def test_another_device_may_be_insisted_on(tmp_path: Path) -> None:
    path = trace(tmp_path, EVENTS, deviceProperties=[{"name": "Something Else"}])
    with pytest.raises(ForetraceError):
        measured_in(path, A100)
    assert len(measured_in(path, A100, any_device=True)) == 6


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\x1f\x8b1234", b"\xff\xfe"])
def test_what_is_no_trace_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(content)
    with pytest.raises(ForetraceError):
        measured_in(path, A100)
    with pytest.raises(ForetraceError, match="there is no trace"):
        measured_in(tmp_path / "none.json", A100)


GOOD = Measurement("aten.mm", ("float32[8, 16]",), 6.0, 5.0, 7.0, 3, "here")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('op = "aten.mm"', 'op = "mm"', "op is 'mm'"),
        ("float32[8, 16]", "single[8, 16]", "inputs are"),
        ("float32[8, 16]", "float32[8, -16]", "inputs are"),
        ("microseconds = 6", "microseconds = 0", "outside"),
        ("microseconds = 6", "microseconds = nan", "not a number"),
        ("low = 5", "low = 6.5", "low 6.5"),
        ("calls = 3", "calls = 0", "calls is 0"),
        ("calls = 3\n", "", "lacks calls"),
        ("calls = 3", "calls = 3\nspeed = 4", "unknown speed"),
        ('source = "here"', 'source = ""', "source is ''"),
        ("[[measured]]", "[measured]", "is not a list"),
    ],
)
def test_an_impossible_measurement_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    path, text = tmp_path / "mine.toml", to_toml("mine", "a100-sxm4-80gb", [GOOD])
    path.write_text(text)
    assert load(path).measured == {GOOD.key: GOOD}
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ForetraceError) as caught:
        load(path)
    assert said in caught.value.message and caught.value.mend


def test_the_script_to_measure_with_is_a_program_and_says_what_it_lacks(tmp_path: Path) -> None:
    script = tmp_path / "measure.py"
    shutil.copy(FOLDER / "measure_on_gpu.txt", script)
    names = set(re.findall(r'"(aten\.\w+)"', script.read_text()))
    assert {"aten.mm", "aten.addmm", "aten.bmm", "aten._softmax"} <= names
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "measure_on_gpu.py measured.toml" in done.stderr
