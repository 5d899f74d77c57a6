"""Sparse matrices that are there before the step: given as an input, or held by a module, as graphs' neighbours are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from foretrace.costmodels.timeline import timeline
from foretrace.graph import ForetraceError, Phase
from foretrace.tracer import Step, trace
from foretrace.tracer.measure import measure

NODES, WIDTH = 300, 8


def neighbours(coalesced: bool = True) -> Tensor:
    places = torch.arange(4 * NODES) * 7 % NODES
    made = torch.sparse_coo_tensor(torch.stack([places, places.flip(0)]), torch.ones(4 * NODES), (NODES, NODES))
    return made.coalesce() if coalesced else made


class Convolution(nn.Module):
    """Sums over neighbours of a graph, twice."""

    def __init__(self, held: Tensor | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, 16), nn.Linear(16, 4)
        self.register_buffer("held", held)

    def forward(self, x: Tensor, given: Tensor | None = None) -> Tensor:
        graph = self.held if given is None else given
        return torch.sparse.mm(graph, self.second(torch.relu(graph @ self.first(x)))).square().mean()


def steps() -> dict[str, Step]:
    x = torch.randn(NODES, WIDTH)
    return {
        "given": Step(Convolution(), (x, neighbours())),
        "given, uncoalesced": Step(Convolution(), (x, neighbours(coalesced=False))),
        "held": Step(Convolution(neighbours()), (x,)),
    }


@pytest.mark.parametrize("name", steps())
def test_the_timeline_is_the_allocators(name: str) -> None:
    told, measured = timeline(trace(lambda: steps()[name], device="cpu")), measure(steps()[name])
    for phase in (Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER):
        assert told.phases[phase].end_bytes - told.start_bytes == measured.ends[phase]


def test_places_and_elements_are_named_and_the_module_is_as_it_was() -> None:
    graph = neighbours()
    count, model = graph._nnz(), Convolution(graph)
    found = trace(model, (torch.randn(NODES, WIDTH),), device="cuda").facts.buffers
    assert [(buffer.name, buffer.shape) for buffer in found] == [
        ("held.indices", (2, count)),
        ("held.values", (count,)),
    ]
    assert model.held is graph and graph._values().tolist() == neighbours()._values().tolist()
    given = trace(Convolution(), (torch.randn(NODES, WIDTH), graph), device="cuda").facts.inputs
    assert [one.name for one in given] == ["[0]", "[1].indices", "[1].values"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_compressed_rows_are_refused(device: str) -> None:
    rows = neighbours().to_sparse_csr()
    with pytest.raises(ForetraceError, match=r"shape \(300, 300\) has the layout sparse_csr"):
        trace(Convolution(), (torch.randn(NODES, WIDTH), rows), device=device)
    with pytest.raises(ForetraceError, match="layout sparse_csr"):
        trace(Convolution(rows), (torch.randn(NODES, WIDTH),), device=device)
