"""The JSON is a contract: it obeys its schema, says the same in the same bytes, and tells nothing of the machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import foretrace
from foretrace import load, price, save
from foretrace.graph import Const
from foretrace.report import to_json
from handmade import perceptron

TOY = Path(__file__).parents[1] / "support" / "toy.toml"
SCHEMA = json.loads((Path(foretrace.__file__).parent / "report" / "report.schema.json").read_text())


def document(**facts: Any) -> Any:
    graph = perceptron()
    return json.loads(to_json(price(replace(graph, facts=replace(graph.facts, **facts)), on=TOY)))


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"device": "cpu", "optimizer": {}, "target": ""},
        {"autocast": "bfloat16", "warmup": 0, "notes": ("a note",)},
        {"assumptions": ({"op": "aten.nonzero.default", "count": 2},)},
    ],
)
def test_a_report_obeys_the_schema(facts: dict[str, Any]) -> None:
    jsonschema.validate(document(**facts), SCHEMA)


def test_the_least_that_was_promised_is_there() -> None:
    promised = {
        "schema_version": None, "target": None, "hardware": None, "device": None, "max_batch": None,
        "memory": {
            "start_bytes", "peak_bytes", "end_bytes", "reserved_peak_bytes", "saved_for_backward_bytes", "phases",
            "at_peak",
        },
        "flops": {"forward", "backward", "optimizer", "total"},
        "time": {"step_seconds", "forward_seconds", "backward_seconds", "optimizer_seconds"},
        "parameters": {"total", "trainable"},
        "coverage": {"ops", "ops_assumed", "assumptions"},
    }  # fmt: skip
    got = document()
    assert set(promised) <= set(got)
    assert all(keys <= set(got[name]) for name, keys in promised.items() if keys)
    assert set(got["memory"]["phases"]) == {"forward", "backward", "optimizer", "zero_grad"}


def test_what_is_not_modelled_is_null_and_said_to_be() -> None:
    got = document(device="cpu")
    keys = ("allocated_peak_bytes", "reserved_peak_bytes", "device_peak_bytes", "fragmentation", "fits")
    assert [got["memory"][key] for key in keys] == [None] * len(keys)
    assert got["max_batch"] is None
    assert any("cuDNN" in line for line in got["coverage"]["not_modelled"])


def test_shares_add_up() -> None:
    got = document()
    memory, flops = got["memory"], got["flops"]
    assert sum(memory["at_peak"].values()) == memory["peak_bytes"]
    assert sum(holder["bytes"] for holder in memory["peak"]["holders"]) == memory["peak_bytes"]
    assert sum(flops[phase] for phase in ("forward", "backward", "optimizer", "zero_grad")) == flops["total"]
    assert sum(taker["flops"] for taker in got["time"]["takers"]) == flops["total"]


def test_the_same_step_gives_the_same_bytes(tmp_path: Path) -> None:
    save(perceptron(), tmp_path / "step")
    first, again = price(perceptron(), on=TOY), price(load(tmp_path / "step"), on=TOY)
    assert to_json(first) == to_json(again) == first.to_json()
    assert to_json(first) == json.dumps(json.loads(to_json(first)), indent=2, sort_keys=True) + "\n"


def test_nothing_tells_where_the_files_lie() -> None:
    assert document(target="/home/somebody/work/train.py:make")["target"] == "train.py:make"
    assert str(Path.home()) not in to_json(price(perceptron(), on=TOY))


def test_facts_that_json_has_no_word_for_become_text() -> None:
    optimizer = {"betas": (0.9, 0.999), "dtype": Const("dtype", "float32"), "lr": float("inf"), "foreach": None}
    assert document(optimizer=optimizer)["step"]["optimizer"] == {
        "betas": [0.9, 0.999],
        "dtype": "Const(kind='dtype', name='float32')",
        "lr": "inf",
        "foreach": None,
    }
