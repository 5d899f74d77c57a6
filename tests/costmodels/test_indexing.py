"""Gathers and scatters: rows, not tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opbuilder import new, work

from foretrace.costmodels import Work

VOCABULARY, WIDTH = 1000, 16


@given(st.integers(1, 3000))
def test_embedding_reads_the_rows_it_names_and_never_more_than_the_table(tokens: int):
    table, index = new(VOCABULARY, WIDTH), new(tokens, dtype="int64")
    assert work("aten.embedding.default", new(tokens, WIDTH), weight=table, indices=index) == Work(
        read_bytes=min(4 * tokens * WIDTH, 4 * VOCABULARY * WIDTH) + 8 * tokens, written_bytes=4 * tokens * WIDTH
    )


def test_embedding_backward_fills_the_table_and_adds_to_the_rows():
    given = {"grad_output": new(12, WIDTH), "indices": new(12, dtype="int64"), "num_weights": VOCABULARY}
    rows = 4 * 12 * WIDTH
    assert work("aten.embedding_dense_backward.default", new(VOCABULARY, WIDTH), **given) == Work(
        vector_flops=12 * WIDTH, read_bytes=rows + 8 * 12 + rows, written_bytes=4 * VOCABULARY * WIDTH + rows
    )


@pytest.mark.parametrize("name", ["index_select.default", "gather.default", "index.Tensor", "_unsafe_index.Tensor"])
def test_gathers_read_what_they_return(name: str):
    index = new(5, dtype="int64")
    given = {"indices": (index,)} if "Tensor" in name else {"dim": 0, "index": index}
    assert work(f"aten.{name}", new(5, WIDTH), self=new(VOCABULARY, WIDTH), **given) == Work(
        read_bytes=4 * 5 * WIDTH + 40, written_bytes=4 * 5 * WIDTH
    )


def test_index_add_in_place_touches_only_its_rows():
    table = new(100, 8)
    given = {"dim": 0, "index": new(5, dtype="int64"), "source": new(5, 8)}
    rows = 4 * 5 * 8
    assert work("aten.index_add_.default", table, mutates=("self",), self=table, **given) == Work(
        vector_flops=40, read_bytes=40 + rows + rows, written_bytes=rows
    )


def test_index_add_out_of_place_copies_first():
    given = {"self": new(100, 8), "dim": 0, "index": new(5, dtype="int64"), "source": new(5, 8)}
    rows, table = 4 * 5 * 8, 4 * 800
    assert work("aten.index_add.default", new(100, 8), **given, alpha=2) == Work(
        vector_flops=80, read_bytes=40 + rows + table + rows, written_bytes=table + rows
    )


def test_scatter_writes_its_index_and_scatter_add_reads_too():
    table, index = new(10, 4), new(10, 2, dtype="int64")
    given = {"self": table, "dim": 1, "index": index, "src": new(10, 2)}
    assert work("aten.scatter_.src", table, mutates=("self",), **given) == Work(read_bytes=160 + 80, written_bytes=80)
    assert work("aten.scatter_add_.default", table, mutates=("self",), **given) == Work(
        vector_flops=20, read_bytes=160 + 80 + 80, written_bytes=80
    )


@pytest.mark.parametrize(
    ("slots", "count"),
    [
        ((new(5, dtype="int64"),), 5 * 6 * 7),
        ((None, new(5, dtype="int64")), 10 * 5 * 7),
        ((new(3, 1, dtype="int64"), new(1, 4, dtype="int64")), 12 * 7),
        ((new(10, 6, dtype="bool"),), 60),
    ],
)
def test_index_put_writes_what_its_indices_name(slots, count):
    table, value = new(10, 6, 7), new()
    counted = work("aten.index_put_.default", table, mutates=("self",), self=table, indices=slots, values=value)
    assert counted.written_bytes == 4 * count
    assert counted.read_bytes == 4 + sum(t.bytes for t in slots if t)


def test_index_put_by_a_mask_writes_as_many_as_there_are_values():
    table = new(10, 6)
    given = {"indices": (new(10, dtype="bool"),), "values": new(3, 6), "accumulate": True}
    assert work("aten.index_put_.default", table, mutates=("self",), self=table, **given) == Work(
        vector_flops=18, read_bytes=10 + 72 + 72, written_bytes=72
    )


def test_index_fill_writes_whole_slices():
    table = new(10, 6)
    given = {"dim": 1, "index": new(2, dtype="int64"), "value": 0.0}
    assert work("aten.index_fill_.int_Scalar", table, mutates=("self",), self=table, **given) == Work(
        read_bytes=16, written_bytes=4 * 20
    )


def test_nonzero_reads_twice():
    assert work("aten.nonzero.default", new(3, 2, dtype="int64"), self=new(10, 10, dtype="bool")) == Work(
        vector_flops=100, read_bytes=200, written_bytes=48
    )


def test_embedding_bag_adds_its_rows():
    made = (new(2, WIDTH), new(6, dtype="int64"), new(2, dtype="int64"), new(2, dtype="int64"))
    given = {"weight": new(VOCABULARY, WIDTH), "indices": new(6, dtype="int64"), "offsets": new(2, dtype="int64")}
    counted = work("aten._embedding_bag.default", made, **given, mode=1)
    assert counted.vector_flops == 6 * WIDTH + 2 * WIDTH
    assert counted.read_bytes == 4 * 6 * WIDTH + 8 * 6 + 8 * 2
