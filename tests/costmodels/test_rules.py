"""The registry: who answers, in which order; and every name in the table against the installed torch."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from opbuilder import call, new

from foretrace.costmodels import FAMILIES, Kind, Table, Work, lookup, override, price_op, rules
from foretrace.costmodels.rules import BUILT_IN, candidates, plugins
from foretrace.graph import ForetraceError, Op

ROOT = Path(rules.__file__).parents[1]
OF_2_14 = frozenset({"aten.linalg_matrix_sqrth", "aten.linalg_polar"})
VERSION_DEPENDENT = frozenset({"aten.cholesky"}) if hasattr(torch.linalg, "polar") else OF_2_14
"""Names in the table that the installed torch does not have."""
AT_FIRST_USE = frozenset(f"torch_nn._linear_cross_entropy_batch_chunked{kind}" for kind in ("", "_no_reduction"))
"""Names that torch registers when they are first called."""


def seven(op: Op) -> Work:
    return Work(vector_flops=7)


def eight(op: Op) -> Work:
    return Work(vector_flops=8)


def mm() -> Op:
    return call("aten.mm.default", new(2, 4), self=new(2, 3), mat2=new(3, 4))


def test_a_rule_answers_with_the_line_it_stands_on():
    answer = lookup(mm())
    assert answer.kind is Kind.RULE
    file, line = answer.by.split(":")
    assert file == "costmodels/matmul.py"
    assert "@rule" in (ROOT / file).read_text().splitlines()[int(line) - 1]


def test_a_free_op_answers_with_its_reason_and_line():
    answer = lookup(call("aten.empty.memory_format", new(3), size=(3,)))
    assert (answer.kind, answer.because) == (Kind.FREE, "takes memory and touches none of it")
    assert answer.by.startswith("costmodels/movement.py:")


def test_an_unknown_op_is_assumed_one_flop_per_element_made():
    priced = price_op(call("lib.mystery.default", (new(3), new(2, dtype="bfloat16")), x=new(10)))
    assert priced.kind is Kind.ASSUMED
    assert priced.work == Work(vector_flops=5, read_bytes=40, written_bytes=12 + 4)


def test_an_unknown_op_that_changes_its_argument_is_assumed_to_work_on_it():
    x = new(10)
    assert price_op(call("lib.change_.default", None, mutates=("x",), x=x)).work == Work(
        vector_flops=10, read_bytes=40, written_bytes=40
    )


def test_an_unknown_view_is_free():
    x = new(4, 2)
    answer = lookup(call("lib.turn.default", x._replace(shape=(2, 4), strides=(1, 2)), x=x))
    assert answer.kind is Kind.FREE and "view" not in answer.by


def test_an_op_in_place_and_an_op_over_lists_have_the_rule_of_the_plain_op():
    assert candidates("aten._foreach_lerp_.Scalar") == (
        "aten._foreach_lerp_.Scalar",
        "aten._foreach_lerp_",
        "aten._foreach_lerp",
        "aten.lerp",
    )
    plain = lookup(call("aten.lerp.Scalar", new(1)))
    assert plain == lookup(call("aten._foreach_lerp_.Scalar", None)) == lookup(call("aten.lerp_.Scalar", new(1)))


def test_an_overload_wins_over_its_packet():
    table = Table()
    table.rule("aten.mm")(seven)
    table.rule("aten.mm.default")(eight)
    with override(table):
        assert price_op(mm()).work == Work(vector_flops=8)


def test_a_name_twice_is_an_error_that_names_both_places():
    table = Table()
    table.rule("lib.op")(seven)
    with pytest.raises(ValueError, match=r"two rules for lib\.op: .*test_rules\.py:\d+ and .*test_rules\.py:\d+"):
        table.rule("lib.op")(eight)
    with pytest.raises(ValueError, match=r"costmodels/matmul\.py:\d+ and"):
        rules.rule("aten.mm")(seven)


def test_overrides_win_the_innermost_first_and_end_with_their_block():
    before = price_op(mm()).work
    with override({"aten.mm": seven}):
        assert price_op(mm()).work.vector_flops == 7
        with override({"aten.mm": eight}):
            assert price_op(mm()).work.vector_flops == 8
        assert price_op(mm()).work.vector_flops == 7
    assert price_op(mm()).work == before


def test_an_override_ends_when_its_block_fails():
    with pytest.raises(RuntimeError), override({"aten.mm": seven}):
        raise RuntimeError
    assert price_op(mm()).work.tensor_flops == 2 * 2 * 3 * 4


@pytest.fixture
def fresh_plugins() -> Iterator[None]:
    plugins.cache_clear()
    yield
    plugins.cache_clear()


@pytest.mark.usefixtures("fresh_plugins")
def test_an_installed_package_wins_over_the_built_in_rule_and_loses_to_an_override(monkeypatch: pytest.MonkeyPatch):
    class Point:
        name, value = "theirs", "theirs:RULES"

        @staticmethod
        def load() -> dict[str, object]:
            return {"aten.mm": seven}

    monkeypatch.setattr(rules, "entry_points", lambda group: [Point] if group == "foretrace.rules" else [])
    assert price_op(mm()).work == Work(vector_flops=7)
    with override({"aten.mm": eight}):
        assert price_op(mm()).work == Work(vector_flops=8)


@pytest.mark.usefixtures("fresh_plugins")
def test_a_package_whose_rules_do_not_load_is_named(monkeypatch: pytest.MonkeyPatch):
    broken = EntryPoint(name="broken", value="no_such_module_here:RULES", group="foretrace.rules")
    monkeypatch.setattr(rules, "entry_points", lambda group: [broken])
    with pytest.raises(ForetraceError, match="'broken'"):
        lookup(mm())


def test_every_family_in_the_list_registered_rules():
    files = {answer.by.split(":")[0] for answer in BUILT_IN.answers.values()}
    assert files == {f"costmodels/{family.__name__.rsplit('.', 1)[1]}.py" for family in FAMILIES}


DISPATCHED = frozenset(torch._C._dispatch_get_all_op_names())
"""``aten::add.Tensor`` and so on: TorchScript has more, which no tensor ever meets."""


def schemas(name: str) -> list[Any]:
    """The schemas of a name's overloads that go through the dispatcher."""
    found = torch._C._jit_get_schemas_for_operator(name.replace(".", "::", 1))
    return [s for s in found if f"{s.name}{'.' if s.overload_name else ''}{s.overload_name}" in DISPATCHED]


def test_every_name_in_the_table_is_an_op_of_the_installed_torch():
    ours = {name for name in BUILT_IN.answers if name.startswith("foretrace.")}
    missing = {name for name in BUILT_IN.answers.keys() - ours if not schemas(name)}
    assert missing - AT_FIRST_USE == VERSION_DEPENDENT


def made_up(argument: Any, side: int) -> object:
    """A value of the argument's type; tensors are four-dimensional."""
    kind = str(argument.type)
    numbers = {"int": 2, "SymInt": 2, "number": 1.5, "float": 0.5, "bool": True, "str": "sum"}
    if "Tensor" in kind:
        tensor = new(side, side, side, side)
        return (tensor, new(side, side, side, side)) if kind.startswith(("List", "Optional[List")) else tensor
    if kind.startswith(("List", "Optional[List")):
        element = kind.removeprefix("Optional[").removeprefix("List[").rstrip("]")
        return (numbers[element],) * (argument.N or 2)
    return numbers.get(kind.removeprefix("Optional[").rstrip("]"))


def plausible(name: str, schema: Any, sparse: bool, side: int = 2) -> Op:
    """A call of the schema: with all its arguments, or (`sparse`) with those it cannot do without."""
    given = {}
    for argument in schema.arguments:
        optional = argument.has_default_value() or str(argument.type).startswith("Optional")
        if not (sparse and optional):
            given[argument.name] = made_up(argument, side)
    mutates = tuple(a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write and a.name in given)
    inplace = next((given[a.name] for a in schema.arguments if a.name in mutates), None)
    result = tuple(
        inplace if returned.alias_info and returned.alias_info.is_write else new(side, side, side, side)
        for returned in schema.returns
        if "Tensor" in str(returned.type)
    )
    return call(f"{name}.{schema.overload_name or 'default'}", result, mutates=mutates, **given)


def is_of_tensors(schema: Any) -> bool:
    return any("Tensor" in str(a.type) for a in (*schema.arguments, *schema.returns))


@pytest.mark.parametrize("name", sorted(BUILT_IN.answers))
def test_every_rule_prices_a_plausible_op_of_each_overload(name: str):
    """An argument that the schema does not have, or that may be missing, would be an error in the rule."""
    answer = BUILT_IN.answers[name]
    for schema in filter(is_of_tensors, schemas(name)):
        for sparse in (False, True):
            op = plausible(name, schema, sparse)
            work = answer.function(op)
            assert 0 <= work.skippable_flops <= work.tensor_flops
            assert min(work.vector_flops, work.read_bytes, work.written_bytes) >= 0
            assert (work == Work()) == (answer.kind is Kind.FREE), op


@pytest.mark.parametrize("name", sorted(BUILT_IN.answers))
def test_larger_tensors_are_no_less_work(name: str):
    price = BUILT_IN.answers[name].function
    for schema in filter(is_of_tensors, schemas(name)):
        small, large = (price(plausible(name, schema, False, side)) for side in (2, 3))
        assert large.tensor_flops >= small.tensor_flops and large.vector_flops >= small.vector_flops
        assert large.read_bytes >= small.read_bytes and large.written_bytes >= small.written_bytes
