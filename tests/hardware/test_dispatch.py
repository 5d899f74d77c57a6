"""One host feeds one device: times worked out by hand, and what holds for any step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrace.graph.op import Op, Tensor
from foretrace.graph.phase import Phase
from foretrace.hardware.constants import constants
from foretrace.hardware.dispatch import KINDS, Issued, dispatches, run

F, B = Phase.FORWARD, Phase.BACKWARD


def test_a_device_that_keeps_up_waits_for_every_op() -> None:
    found = run([Issued(F, 10, 1), Issued(F, 10, 1), Issued(B, 10, 1)])
    # kernels start at 10, 20 and 30
    assert (found.seconds, found.waiting_seconds, found.kernel_seconds, found.host_seconds) == (31, 28, 3, 30)
    assert (found.phases[F], found.phases[B]) == (21, 10)


def test_a_host_that_runs_ahead_costs_its_first_op_only() -> None:
    found = run([Issued(F, 1, 10), Issued(F, 1, 10), Issued(B, 1, 10)])
    assert (found.seconds, found.waiting_seconds) == (31, 1)


def test_a_number_handed_back_empties_the_queue() -> None:
    ops = [Issued(F, 1, 10), Issued(F, 1, 10, waits=True), Issued(B, 5, 10)]
    assert run(ops).seconds == 21 + 5 + 10
    assert run([op._replace(waits=False) for op in ops]).seconds == 31


def test_the_host_may_be_the_last_to_finish() -> None:
    found = run([Issued(F, 1, 2), Issued(F, 10, 0)])
    assert (found.seconds, found.waiting_seconds) == (11, 9)


issued = st.builds(Issued, st.sampled_from(list(Phase)), st.integers(0, 100), st.integers(0, 100), st.booleans())


@given(st.lists(issued))
def test_a_step_is_its_kernels_and_its_waiting(ops: list[Issued]) -> None:
    found = run(ops)
    kernels, host = sum(op.kernel_seconds for op in ops), sum(op.host_seconds for op in ops)
    assert found.seconds == pytest.approx(found.kernel_seconds + found.waiting_seconds)
    assert max(kernels, host) <= found.seconds <= kernels + host
    assert (found.kernel_seconds, found.host_seconds) == (kernels, host)


@given(st.lists(issued), st.integers(1, 50))
def test_slower_kernels_never_make_a_step_shorter(ops: list[Issued], more: int) -> None:
    slower = [op._replace(kernel_seconds=op.kernel_seconds + more) for op in ops]
    assert run(slower).seconds >= run(ops).seconds


def an_op(
    name: str, phase: Phase, module: str = "", sequence: int | None = 1, tensors: int = 1, forward: int | None = None
) -> Op:
    one = Tensor(0, "float32", (4,), (1,))
    given = (one,) * tensors if tensors > 1 else one
    return Op(id=0, name=name, phase=phase, args={"self": given}, result=one, module=module, sequence=sequence,
              forward=forward)  # fmt: skip


STEP = [
    an_op("aten.add.Tensor", F, "h.0.mlp"),
    an_op("aten.view.default", F, "h.0.mlp"),
    an_op("aten.add.Tensor", F, "h.1"),
    an_op("aten.add.Tensor", F, "h.1", sequence=None),
    an_op("aten.convolution.default", F, "h.1"),
    an_op("aten.mul.Tensor", B, forward=4),
    an_op("aten.sum.dim_IntList", B, forward=4),
    an_op("aten.convolution_backward.default", B, forward=3),
    an_op("aten.t.default", B),
    an_op("aten.t.default", B),
    an_op("aten._foreach_add_.List", Phase.OPTIMIZER, tensors=5),
]
FREE = [op.packet in ("aten.view", "aten.t") for op in STEP]


def test_what_the_host_spends_on_each_kind_of_op() -> None:
    known = constants()
    seconds = {name.removeprefix("host_seconds."): known[name] for name in known if name.startswith("host_seconds.")}
    assert set(seconds) == set(KINDS)
    module, kernel, node = seconds["module"], seconds["kernel"], seconds["backward_node"]
    assert dispatches(STEP, FREE, known) == pytest.approx(
        [
            3 * module + kernel,  # enters h, h.0 and h.0.mlp
            seconds["view"],
            module + kernel,  # enters h.1
            kernel * known["host_share_without_autograd"],
            seconds["heavy_kernel"],
            node + seconds["backward_kernel"],
            seconds["backward_kernel"],  # of the same node
            node + 2 * seconds["backward_heavy_kernel"],
            node + seconds["backward_view"],
            node + seconds["backward_view"],  # no forward op: a node of its own
            seconds["optimizer_kernel"] + 5 * seconds["list_tensor"],
        ]
    )


def test_a_host_twice_as_fast_takes_half_the_time() -> None:
    fast = dispatches(STEP, FREE, constants(), speed=2.0)
    assert fast == pytest.approx([seconds / 2 for seconds in dispatches(STEP, FREE, constants())])


def test_a_depthwise_convolution_is_set_up_like_any_kernel_unless_it_is_in_channels_last() -> None:
    known = constants()

    def seconds(groups: int, channels: int, strides: tuple[int, ...]) -> float:
        image = Tensor(0, "float32", (2, 8, 4, 4), strides)
        weight = Tensor(1, "float32", (8, channels, 3, 3), (9 * channels, 9, 3, 1))
        op = Op(id=0, name="aten.convolution.default", phase=F, result=image, sequence=1,
                args={"input": image, "weight": weight, "groups": groups})  # fmt: skip
        return dispatches([op], [False], known)[0] - known["host_seconds.module"]

    planes, last = (128, 16, 4, 1), (128, 1, 32, 8)
    kernel, heavy = known["host_seconds.kernel"], known["host_seconds.heavy_kernel"]
    assert seconds(8, 1, planes) == pytest.approx(kernel)
    assert [seconds(8, 1, last), seconds(1, 8, planes), seconds(4, 2, planes)] == pytest.approx([heavy] * 3)
