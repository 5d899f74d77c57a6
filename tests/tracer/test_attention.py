"""Which attention backend PyTorch takes, and why not the others: a table of calls, GPUs and flags."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from foretrace import cli
from foretrace.graph import ForetraceError, StepGraph, load
from foretrace.tracer import trace
from foretrace.tracer.attention import Attention, choose_attention

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
A100, H100, V100, T4, RTX4090 = (8, 0), (9, 0), (7, 0), (7, 5), (8, 9)


def call(dtype: torch.dtype = BF16, size: tuple[int, int, int, int] = (2, 8, 64, 64), **how: Any) -> Attention:
    """An attention over tensors that hold nothing; `keys` and `values` are shapes, `grad` asks for the derivative."""
    keys, values, grad = how.pop("keys", size), how.pop("values", None), how.pop("grad", False)
    shapes = (size, keys, values or keys)
    query, key, value = (torch.empty(shape, dtype=dtype, device="meta", requires_grad=grad) for shape in shapes)
    return Attention(query, key, value, **how)


def chosen(asked: Attention, capability: tuple[int, int]) -> tuple[str, list[tuple[str, str]]]:
    backend, refused = choose_attention(asked, capability)
    return backend, [tuple(one) for one in refused]


MASK = torch.empty(64, 64, dtype=BF16, device="meta")
GROUPED = {"keys": (2, 2, 64, 64), "gqa": True}


@pytest.mark.parametrize(
    ("asked", "capability", "backend", "refused"),
    [
        (call(), A100, "flash", []),
        (call(FP32), A100, "efficient", [("flash", "float32")]),
        (call(mask=MASK), A100, "efficient", [("flash", "explicit mask")]),
        (call(torch.float64), A100, "math", [("flash", "float64"), ("efficient", "float64")]),
        (
            call(causal=True, keys=(2, 8, 65, 64)),
            A100,
            "efficient",
            [("flash", "causal with sequences of different length")],
        ),
        (call(size=(2, 8, 64, 20)), A100, "flash", []),
        (
            call(FP32, size=(2, 8, 64, 6)),
            A100,
            "math",
            [("flash", "float32"), ("efficient", "head dimensions 6, 6 not multiples of 4")],
        ),
        (call(size=(2, 8, 64, 512)), A100, "efficient", [("flash", "head dimensions 512, 512, 512")]),
        (call(values=(2, 8, 64, 32)), A100, "efficient", [("flash", "head dimensions 64, 64, 32")]),
        (call(**GROUPED), A100, "flash", []),
        (
            call(mask=MASK, **GROUPED),
            A100,
            "math",
            [("flash", "explicit mask"), ("efficient", "batch or heads differ")],
        ),
        (
            call(keys=(2, 2, 64, 64)),
            A100,
            "math",
            [("flash", "batch or heads differ"), ("efficient", "batch or heads differ")],
        ),
        (call(size=(2, 8, 0, 64)), A100, "math", [("flash", "empty sequence"), ("efficient", "empty sequence")]),
        # Hopper and the Blackwell of data centres prefer cuDNN, where it can.
        (call(), H100, "cuDNN", []),
        (call(), (10, 0), "cuDNN", []),
        (call(), (12, 0), "flash", []),
        (call(mask=MASK, **GROUPED), H100, "cuDNN", []),
        (call(dropout=0.125), H100, "cuDNN", []),
        (call(dropout=0.1), H100, "flash", [("cuDNN", "dropout 0.1 is no multiple of 1/16")]),
        (call(size=(2, 8, 64, 256)), H100, "flash", [("cuDNN", "head dimensions 256, 256")]),
        (call(size=(2, 8, 64, 192), values=(2, 8, 64, 128)), H100, "cuDNN", []),
        (call(size=(2, 8, 64, 20)), H100, "flash", [("cuDNN", "head dimensions 20, 20")]),
        (call(size=(2, 8, 1, 64), keys=(2, 8, 1, 64)), H100, "flash", [("cuDNN", "sequence of one")]),
        (call(FP32), H100, "efficient", [("cuDNN", "float32"), ("flash", "float32")]),
        (
            call(mask=MASK[:32]),
            H100,
            "efficient",
            [("cuDNN", "mask of shape [32, 64]"), ("flash", "explicit mask")],
        ),
        # Turing and Volta have no flash; the memory-efficient kernel has no bfloat16 there.
        (call(FP16), T4, "efficient", [("flash", "compute capability 7.5")]),
        (
            call(BF16),
            T4,
            "math",
            [("flash", "compute capability 7.5"), ("efficient", "bfloat16 on compute capability 7.5")],
        ),
        (call(FP32, size=(2, 8, 64, 6)), V100, "efficient", [("flash", "compute capability 7.0")]),
        (
            call(FP16, size=(2, 8, 64, 20)),
            V100,
            "math",
            [("flash", "compute capability 7.0"), ("efficient", "head dimensions 20, 20 not multiples of 8")],
        ),
        # Consumer GPUs cannot differentiate wide heads by flash.
        (
            call(size=(2, 8, 64, 224), grad=True),
            RTX4090,
            "efficient",
            [("flash", "derivative for head dimension 224 on compute capability 8.9")],
        ),
        (call(size=(2, 8, 64, 224)), RTX4090, "flash", []),
        (call(size=(2, 8, 64, 256), grad=True), RTX4090, "flash", []),
        (
            call(size=(2, 8, 64, 256), grad=True, dropout=0.1),
            RTX4090,
            "efficient",
            [("flash", "derivative for head dimension 256 on compute capability 8.9")],
        ),
        (call(size=(2, 8, 64, 224), grad=True), A100, "flash", []),
    ],
)
def test_the_choice(asked: Attention, capability: tuple[int, int], backend: str, refused: list[Any]) -> None:
    assert chosen(asked, capability) == (backend, refused)


def test_a_mask_that_is_spread_along_its_rows_is_refused() -> None:
    spread = torch.empty(64, 1, dtype=BF16, device="meta").expand(64, 64)
    why = "last dimension of the mask not contiguous"
    assert chosen(call(mask=spread), A100) == ("math", [("flash", "explicit mask"), ("efficient", why)])
    assert chosen(call(mask=spread), H100) == ("math", [("cuDNN", why), ("flash", "explicit mask"), ("efficient", why)])


def test_a_mask_with_a_derivative_is_not_cudnns() -> None:
    learned = torch.empty(64, 64, dtype=BF16, device="meta", requires_grad=True)
    assert chosen(call(mask=learned), H100)[1][0] == ("cuDNN", "mask requires grad")


def test_keys_that_begin_at_an_odd_place_are_refused() -> None:
    whole = torch.empty(2 * 8 * 64 * 64 + 1, dtype=FP32, device="meta")
    odd = whole[1:].view(2, 8, 64, 64)
    asked = Attention(odd, odd, odd)
    refused = [("flash", "float32"), ("efficient", "storage offsets not multiples of 4")]
    assert chosen(asked, A100) == ("math", refused)
    assert chosen(asked, T4)[0] == "efficient"


@pytest.mark.parametrize(
    ("flags", "backend", "refused"),
    [
        (lambda: sdpa_kernel(SDPBackend.MATH), "math", [("flash", "switched off"), ("efficient", "switched off")]),
        (lambda: sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION]), "efficient", [("flash", "switched off")]),
        (
            lambda: sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION], set_priority=True),
            "math",
            [],
        ),
        (lambda: sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]), "flash", []),
        (
            lambda: sdpa_kernel(SDPBackend.CUDNN_ATTENTION),
            "cuDNN",
            [("flash", "switched off"), ("efficient", "switched off"), ("math", "switched off")],
        ),
    ],
)
def test_the_users_flags(flags: Callable[[], AbstractContextManager[None]], backend: str, refused: list[Any]) -> None:
    with flags():
        assert chosen(call(), A100) == (backend, refused)


def test_a_single_flag() -> None:
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        assert chosen(call(), A100) == ("efficient", [("flash", "switched off")])
    finally:
        torch.backends.cuda.enable_flash_sdp(True)


def test_cudnn_can_be_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDNN_SDPA_DEPRIORITIZED", "1")
    assert chosen(call(), H100) == ("flash", [])


def test_determinism_refuses_cudnn() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        assert chosen(call(), H100) == ("flash", [("cuDNN", "not deterministic")])
    finally:
        torch.use_deterministic_algorithms(False)


def test_no_backend_is_pytorchs_error() -> None:
    with (
        sdpa_kernel(SDPBackend.FLASH_ATTENTION),
        pytest.raises(RuntimeError, match=r"No available kernel.*flash: float32"),
    ):
        choose_attention(call(FP32), A100)


# -- in a trace -----------------------------------------------------------------------------------


class Attending(nn.Module):
    """One attention under the user's flags."""

    def __init__(self, mask: torch.Tensor | None = None, flags: Any = nullcontext, width: int = 64) -> None:
        super().__init__()
        self.project, self.mask, self.flags, self.width = nn.Linear(width, 3 * width), mask, flags, width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.project(x).unflatten(-1, (3, 2, self.width // 2)).permute(2, 0, 3, 1, 4)
        mask = self.mask.to(x.device) if self.mask is not None else None
        with self.flags():
            return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def traced(model: nn.Module, capability: str = "8.0", **how: Any) -> StepGraph:
    how = {"loss": lambda out: out.float().sum(), "autocast": BF16, "capability": capability} | how
    return trace(model, (torch.randn(2, 16, getattr(model, "width", 64)),), device="cuda", **how)


@pytest.mark.parametrize(
    ("capability", "op", "note"),
    [
        ("8.0", "flash", "attention runs the flash kernel"),
        ("9.0", "cudnn", "attention runs the cuDNN kernel"),
        ("7.5", "math", "attention runs the math kernel (flash refused: compute capability 7.5; "),
    ],
)
def test_the_gpu_decides(capability: str, op: str, note: str) -> None:
    graph = traced(Attending(), capability)
    assert graph.facts.capability == capability
    assert graph.facts.notes[0].startswith(f"1 times: {note}")
    packets = {o.packet for o in graph.ops}
    if op == "math":
        assert "aten.bmm" in packets and not any("_scaled_dot_product" in packet for packet in packets)
    else:
        assert f"aten._scaled_dot_product_{op}_attention" in packets
        assert f"aten._scaled_dot_product_{op}_attention_backward" in packets


def test_a_boolean_mask_is_turned_and_padded() -> None:
    graph = traced(Attending(torch.ones(16, 16, dtype=torch.bool)))
    names = [op.packet for op in graph.ops]
    place = names.index("aten.where")
    assert names[place - 2 : place] == ["aten.scalar_tensor"] * 2
    assert graph.ops[place].outputs[0].dtype == "bfloat16"
    (attention,) = [op for op in graph.ops if op.packet == "aten._scaled_dot_product_efficient_attention"]
    assert attention.tensor("attn_bias").shape == (2, 2, 16, 16)
    assert "aten.constant_pad_nd" not in names


def test_a_mask_of_odd_rows_is_padded() -> None:
    model = Attending(torch.zeros(15, 15, dtype=BF16))
    graph = trace(model, (torch.randn(2, 15, 64),), loss=lambda out: out.float().sum(), autocast=BF16, device="cuda")
    (padded,) = [op for op in graph.ops if op.packet == "aten.constant_pad_nd"]
    assert padded.outputs[0].shape == (15, 16)


def test_flags_hold_in_a_trace() -> None:
    graph = traced(Attending(flags=lambda: sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION)))
    assert graph.facts.notes[0] == "1 times: attention runs the efficient kernel (flash refused: switched off)"


def test_no_backend_in_a_trace_is_one_line() -> None:
    with pytest.raises(ForetraceError, match="No available kernel"):
        traced(Attending(flags=lambda: sdpa_kernel(SDPBackend.FLASH_ATTENTION)), autocast=None)


# -- what the program is told ---------------------------------------------------------------------


class Asking(nn.Module):
    """Asks what GPU it is on."""

    told: tuple[object, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        properties = torch.cuda.get_device_properties(0)
        Asking.told = (
            torch.cuda.get_device_capability(),
            (properties.major, properties.minor),
            torch.cuda.is_bf16_supported(including_emulation=False),
            torch.cuda.is_bf16_supported(),
        )
        return self.linear(x).sum()


@pytest.mark.parametrize(("capability", "bfloat16"), [("7.0", False), ("8.0", True), ("12.1", True)])
def test_the_program_is_told_of_the_gpu(capability: str, bfloat16: bool) -> None:
    trace(Asking(), (torch.randn(2, 4),), device="cuda", capability=capability)
    numbers = tuple(int(number) for number in capability.split("."))
    assert Asking.told == (numbers, numbers, bfloat16, True)


def test_a_trace_for_the_cpu_has_no_capability() -> None:
    graph = trace(nn.Linear(4, 4), (torch.randn(2, 4),), loss=torch.sum, device="cpu", capability="9.0")
    assert graph.facts.capability == ""


@pytest.mark.parametrize(
    ("capability", "problem"),
    [("sm80", "no compute capability"), ("8", "no compute capability"), ("3.5", "no GPU of"), ("99.0", "no GPU of")],
)
def test_capabilities_that_do_not_exist_are_refused(capability: str, problem: str) -> None:
    with pytest.raises(ForetraceError, match=problem):
        trace(nn.Linear(4, 4), (torch.randn(2, 4),), device="cuda", capability=capability)


TARGET = """
import torch
from torch import nn


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(64, 192)

    def forward(self, x):
        q, k, v = self.project(x).unflatten(-1, (3, 2, 32)).permute(2, 0, 3, 1, 4)
        return nn.functional.scaled_dot_product_attention(q, k, v).float().sum()


def make():
    return Attending(), (torch.randn(2, 16, 64),)
"""


@pytest.mark.parametrize(("profile", "op"), [("h100-sxm5-80gb", "cudnn"), ("a100-sxm4-80gb", "flash")])
def test_run_traces_for_the_profiles_gpu(
    profile: str, op: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.py").write_text(TARGET)
    saved = tmp_path / "step.foretrace"
    command = ["run", f"{tmp_path}/model.py:make", "--on", profile, "--autocast", "bfloat16", "--save", str(saved)]
    assert cli.main(command) == 0
    packets = {op.packet for op in load(saved).ops}
    assert f"aten._scaled_dot_product_{op}_attention_backward" in packets
    assert "kernel choices" not in capsys.readouterr().out
