"""Bytes: what is read, what is written, and that nothing counts twice."""

from hypothesis import given
from hypothesis import strategies as st
from opbuilder import call, new

from foretrace.costmodels import Work, moves
from foretrace.costmodels.work import place, total, touched, write_only
from foretrace.graph import Tensor

COUNTS = st.integers(0, 10**15)
WORKS = st.builds(
    Work,
    tensor_flops=COUNTS,
    vector_flops=COUNTS,
    read_bytes=COUNTS,
    written_bytes=COUNTS,
    skippable_flops=COUNTS,
)


def test_flops_and_bytes_are_sums():
    work = Work(tensor_flops=100, vector_flops=7, read_bytes=30, written_bytes=4, skippable_flops=40)
    assert (work.flops, work.causal_flops, work.bytes) == (107, 67, 34)


@given(st.lists(WORKS, max_size=5))
def test_total_is_repeated_addition(works: list[Work]):
    added = Work()
    for work in works:
        added = added + work
    assert total(works) == added


def test_a_functional_op_reads_its_inputs_and_writes_its_output():
    a, b, c = new(2, 3), new(3), new(2, 3)
    assert moves(call("aten.add.Tensor", c, self=a, other=b)) == Work(read_bytes=24 + 12, written_bytes=24)


def test_an_op_in_place_reads_and_writes_what_it_changes():
    a, b = new(4), new(4)
    assert moves(call("aten.add_.Tensor", a, mutates=("self",), self=a, other=b)) == Work(
        read_bytes=32, written_bytes=16
    )


def test_an_out_argument_is_only_written():
    a, b, out = new(4), new(4), new(4)
    op = call("aten.add.out", out, mutates=("out",), self=a, other=b, out=out)
    assert write_only(op) == {"out"}
    assert moves(op) == Work(read_bytes=32, written_bytes=16)


def test_an_out_argument_that_is_also_an_operand_is_read():
    largest, b = new(4), new(4)
    op = call("aten.maximum.out", largest, mutates=("out",), self=largest, other=b, out=largest)
    assert moves(op) == Work(read_bytes=32, written_bytes=16)


def test_a_functional_op_that_changes_an_argument_it_does_not_return_reads_it():
    x, mean, y = new(2, 3), new(3), new(2, 3)
    op = call("lib.track.default", y, mutates=("mean",), x=x, mean=mean)
    assert moves(op) == Work(read_bytes=24 + 12, written_bytes=24 + 12)


def test_one_tensor_twice_is_read_once_also_transposed():
    a = new(3, 5)
    transposed = Tensor(a.storage, a.dtype, (5, 3), (1, 5))
    assert place(a) == place(transposed)
    assert touched([a, a, transposed]) == 60


def test_parts_of_one_storage_are_different_places():
    whole = new(2, 8)
    left = Tensor(whole.storage, "float32", (2, 4), (8, 1), 0)
    right = Tensor(whole.storage, "float32", (2, 4), (8, 1), 4)
    assert touched([left, right]) == 64


def test_a_broadcast_dimension_is_read_once():
    row = Tensor(new(4).storage, "float32", (1000, 4), (0, 1))
    out = new(1000, 4)
    assert moves(call("aten.clone.default", out, self=row)) == Work(read_bytes=16, written_bytes=16000)
