"""Ops alike, and the networkx graph made without networkx's own checks."""

import networkx as nx

from foretrace.graph import Op, Phase, StepGraph, Tensor
from foretrace.graph.alike import kinds_of
from handmade import perceptron


def call(place: int, *storages: int, size: int = 2, **others: object) -> Op:
    """A product of two matrices on the first two storages, into the third."""
    left, right, made = (Tensor(s, "float32", (size, size), (size, 1)) for s in storages)
    given: dict[str, object] = {"self": left, "mat2": right, **others}
    return Op(id=place, name="aten.mm.default", phase=Phase.FORWARD, args=given, result=made, module=f"h.{place}")


def test_ops_elsewhere_in_model_and_memory_are_alike():
    ops = [call(0, 0, 1, 2), call(1, 2, 3, 4), call(2, 0, 1, 2)]
    assert kinds_of(ops) == (0, 0, 0)


def test_what_makes_ops_differ():
    ops = [
        call(0, 0, 1, 2),
        call(1, 0, 0, 2),  # one storage twice
        call(2, 0, 1, 0),  # written over an operand
        call(3, 0, 1, 1),
        call(4, 0, 1, 2, size=3),
        call(5, 0, 1, 2, alpha=1),
        call(6, 0, 1, 2, alpha=1.0),
        call(7, 0, 1, 2, alpha=True),
        call(8, 0, 1, 2, beta=1),
        call(9, 0, 1, 2, alpha=(1, 2)),
        call(10, 0, 1, 2, alpha=(1, (2,))),
    ]
    assert kinds_of(ops) == tuple(range(11))
    again = [call(11 + place, 5, 6, 7, alpha=value) for place, value in enumerate((1, 1.0, True, (1, 2)))]
    assert kinds_of([*ops, *again])[11:] == (5, 6, 7, 9)


def test_a_value_without_a_hash_is_like_no_other():
    assert kinds_of([call(0, 0, 1, 2, dims=[1]), call(1, 0, 1, 2, dims=[1])]) == (0, 1)


def test_the_graph_is_the_one_that_networkx_makes():
    made = perceptron().graph
    expected: nx.MultiDiGraph[int] = nx.MultiDiGraph()
    expected.add_nodes_from(made.nodes(data=True))
    expected.add_edges_from(made.edges(data=True))
    assert made.number_of_edges() > made.number_of_nodes() > 5
    assert list(made.edges(keys=True, data=True)) == list(expected.edges(keys=True, data=True))
    assert made.adj == expected.adj and made.pred == expected.pred


def test_two_tensors_between_the_same_ops_are_two_edges():
    found = StepGraph(ops=(call(0, 0, 1, 2), call(1, 2, 2, 3)), storages=(), events=(), spans=()).graph
    assert list(found.edges(keys=True)) == [(0, 1, 0), (0, 1, 1)]
