"""A trace file gives back the graph that was saved, and anything else gives one line and the mend."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrace.graph import (
    Const,
    Facts,
    ForetraceError,
    Named,
    Op,
    Phase,
    Source,
    Span,
    StepGraph,
    Tensor,
    laws,
    load,
    save,
)
from foretrace.graph.serde import SCHEMA_VERSION, write_whole
from handmade import perceptron

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.builds(Const, st.sampled_from(["dtype", "device"]), st.text(max_size=5))
    | st.builds(
        Tensor,
        st.just(0),
        st.sampled_from(["float32", "int64"]),
        st.lists(st.integers(0, 2**40), max_size=3).map(tuple),
        st.lists(st.integers(0, 2**40), max_size=3).map(tuple),
        st.integers(0, 2**40),
    )
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=12)
FACTS = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


def one_op(args: dict[str, object], result: object = None, **facts: Any) -> StepGraph:
    op = Op(id=0, name="my::op.default", phase=Phase.FORWARD, args=args, result=result, source=Source("é.py", 3, "f"))
    storages = perceptron(layers=1).storages[:1]
    return StepGraph((op,), storages, (), (Span(Phase.FORWARD, 0, 1, 0, 0),), Facts(**facts))


def round_trip(graph: StepGraph, folder: Path) -> StepGraph:
    save(graph, folder / "step.foretrace")
    return load(folder / "step.foretrace")


def parts(graph: StepGraph) -> str:
    """Equal only for the same types and the same signs of zero, which ``==`` forgives."""
    return repr((graph.ops, graph.storages, graph.events, graph.spans, graph.facts))


def test_a_step_comes_back_equal(tmp_path: Path) -> None:
    graph = perceptron()
    again = round_trip(graph, tmp_path)
    assert again == graph
    assert parts(again) == parts(graph)
    laws.check(again)
    assert list(again.graph.edges) == list(graph.graph.edges)


@settings(max_examples=150, deadline=None)
@given(args=st.dictionaries(st.text(max_size=4), VALUES, max_size=5), result=VALUES, note=st.text(), fact=FACTS)
def test_any_value_comes_back_equal(
    tmp_path_factory: pytest.TempPathFactory, args: dict[str, object], result: object, note: str, fact: object
) -> None:
    graph = one_op(args, result, notes=(note,), assumptions=({"value": fact},))
    again = round_trip(graph, tmp_path_factory.mktemp("serde"))
    assert again == graph
    assert parts(again) == parts(graph)


def test_values_that_equal_each_other_stay_apart(tmp_path: Path) -> None:
    alike = (1, 1.0, True, 0, 0.0, -0.0, False, 1 + 0j, complex(0.0, -0.0), "1", (1,), (1.0,), (True,), ((),), None, ())
    (again,) = round_trip(one_op({"alike": alike}), tmp_path).ops
    assert repr(again.args["alike"]) == repr(alike)


def test_numbers_that_json_lacks_come_back(tmp_path: Path) -> None:
    odd = (math.inf, -math.inf, math.nan, complex(math.inf, math.nan), 2**70)
    (again,) = round_trip(one_op({"odd": odd}), tmp_path).ops
    assert repr(again.args["odd"]) == repr(odd)


def test_facts_may_be_mappings_of_any_kind(tmp_path: Path) -> None:
    optimizer, buffers = {"lr": 1e-3, "betas": (0.9, 0.999)}, (Named("b", 0, (), "int64"),)
    graph = one_op({}, optimizer=MappingProxyType(optimizer), buffers=buffers)
    assert round_trip(graph, tmp_path).facts == Facts(optimizer=optimizer, buffers=buffers)


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    save(perceptron(), tmp_path / "one")
    save(perceptron(), tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_file_is_plain_json_and_says_what_it_is(tmp_path: Path) -> None:
    save(perceptron(), tmp_path / "step")
    document = json.loads(gzip.decompress((tmp_path / "step").read_bytes()), parse_constant=pytest.fail)
    assert (document["format"], document["schema_version"]) == ("foretrace-trace", 1)


def test_a_value_that_no_file_can_hold_is_our_fault_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a trace cannot hold"):
        save(one_op({"x": {1, 2}}), tmp_path / "step")
    assert list(tmp_path.iterdir()) == []


def test_a_file_from_before_a_fact_was_kept_is_read(tmp_path: Path) -> None:
    document = document_of(perceptron(), tmp_path)
    del document["facts"]["capability"]
    (tmp_path / "old").write_bytes(gzip.compress(json.dumps(document).encode()))
    assert load(tmp_path / "old") == perceptron()


# --- what else may be in a file ---


def document_of(graph: StepGraph, folder: Path) -> dict[str, Any]:
    save(graph, folder / "good")
    return json.loads(gzip.decompress((folder / "good").read_bytes()))


def expect_error(path: Path, message: str) -> None:
    with pytest.raises(ForetraceError) as raised:
        load(path)
    assert raised.value.message == message.format(path=path)
    assert raised.value.mend


def test_a_missing_file(tmp_path: Path) -> None:
    expect_error(tmp_path / "none", "there is no trace file {path}")


def test_a_folder(tmp_path: Path) -> None:
    expect_error(tmp_path, "cannot read {path}: Is a directory")


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"PK\3\4",
        b"\x80\x04.",
        gzip.compress(b"{}", mtime=0),
        gzip.compress(b"[1]", mtime=0),
        gzip.compress(b'{"format": 1}', mtime=0),
    ],
)
def test_a_foreign_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    expect_error(tmp_path / "file", "{path} is not a foretrace trace")


@pytest.mark.parametrize("cut", [0, 1, 12, 200, -1, -9])
def test_a_truncated_file(tmp_path: Path, cut: int) -> None:
    save(perceptron(), tmp_path / "file")
    (tmp_path / "file").write_bytes((tmp_path / "file").read_bytes()[:cut])
    expect_error(tmp_path / "file", "{path} is damaged or incomplete")


def test_a_flipped_bit_anywhere(tmp_path: Path) -> None:
    """It is found by the checksum, or it was a bit of padding that nothing reads."""
    graph = perceptron(layers=1)
    save(graph, tmp_path / "file")
    data = (tmp_path / "file").read_bytes()
    harmless = 0
    for place in range(10, len(data), 7):
        (tmp_path / "file").write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        try:
            assert load(tmp_path / "file").ops == graph.ops
            harmless += 1
        except ForetraceError:
            expect_error(tmp_path / "file", "{path} is damaged or incomplete")
    assert harmless <= 1


def test_a_newer_file(tmp_path: Path) -> None:
    document = document_of(perceptron(), tmp_path) | {"schema_version": SCHEMA_VERSION + 1}
    (tmp_path / "file").write_bytes(gzip.compress(json.dumps(document).encode()))
    expect_error(tmp_path / "file", "{path} has schema version 2, and this foretrace reads up to 1")


def pointing_ahead(document: dict[str, Any]) -> None:
    document["values"].insert(0, ["tuple", 5])


def with_a_short_column(document: dict[str, Any]) -> None:
    document["ops"]["sequence"].pop()


def with_a_strange_storage(document: dict[str, Any]) -> None:
    document["events"]["storage"][0] = 10**6


def with_a_strange_op(document: dict[str, Any]) -> None:
    document["events"]["op"][0] = 10**6


def with_a_negative_storage(document: dict[str, Any]) -> None:
    document["events"]["storage"][0] = -1


def with_a_strange_phase(document: dict[str, Any]) -> None:
    document["values"] = ["sideways" if value == "forward" else value for value in document["values"]]


def with_a_strange_fact(document: dict[str, Any]) -> None:
    document["facts"]["colour"] = 0


def with_a_strange_kind(document: dict[str, Any]) -> None:
    document["values"].append(["__import__", 0])


def without_a_version(document: dict[str, Any]) -> None:
    document["schema_version"] = None


def without_a_table(document: dict[str, Any]) -> None:
    del document["storages"]


@pytest.mark.parametrize(
    "spoil",
    [
        pointing_ahead,
        with_a_short_column,
        with_a_strange_storage,
        with_a_strange_op,
        with_a_negative_storage,
        with_a_strange_phase,
        with_a_strange_fact,
        with_a_strange_kind,
        without_a_version,
        without_a_table,
    ],
)
def test_a_file_with_wrong_contents(tmp_path: Path, spoil: Callable[[dict[str, Any]], None]) -> None:
    document = document_of(perceptron(), tmp_path)
    spoil(document)
    (tmp_path / "file").write_bytes(gzip.compress(json.dumps(document).encode()))
    expect_error(tmp_path / "file", "{path} is damaged or incomplete")


# --- written whole or not at all ---


def test_an_existing_file_is_replaced_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"old")
    write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "file", b"old")

    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ForetraceError, match="No space left on device"):
        write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_whole(tmp_path / "link", b"data")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"data"


@pytest.mark.parametrize("place", ["no/such/folder/file", "."])
def test_a_place_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    with pytest.raises(ForetraceError, match="cannot write"):
        save(perceptron(layers=1), tmp_path / place)
    assert list(tmp_path.iterdir()) == []
