"""Indices that lie outside: a trace refuses those that eager PyTorch refuses, and takes the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foretrace.graph import ForetraceError
from foretrace.tracer import trace

ROWS, WIDTH = 1000, 64
Forward = Callable[["Model"], torch.Tensor]


class Model(nn.Module):
    """The table is too large for its values to be known."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.table, self.layer, self.called = nn.Embedding(ROWS, WIDTH), nn.Linear(WIDTH, WIDTH), forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.called(self).float().mean()

    @property
    def rows(self) -> torch.Tensor:
        return self.layer(self.table.weight)


def whole(count: int, value: int, *more: int) -> torch.Tensor:
    return torch.full((count, *more), value)


CALLS: dict[str, Callable[[Model, int], torch.Tensor]] = {
    "embedding": lambda m, n: m.table(torch.arange(n)),
    "embedding_bag": lambda m, n: F.embedding_bag(whole(4, n - 1, 4), m.table.weight),
    "index_select": lambda m, n: m.rows.index_select(0, torch.arange(n)),
    "gather": lambda m, n: m.rows.gather(0, whole(2, n - 1, WIDTH)),
    "gather of an expanded index": lambda m, n: m.rows.gather(0, whole(2, n - 1, 1).expand(2, WIDTH)),
    "scatter": lambda m, n: m.rows.scatter(0, whole(2, n - 1, WIDTH), 1.0),
    "scatter_add": lambda m, n: m.rows.scatter_add(0, whole(2, n - 1, WIDTH), torch.ones(2, WIDTH)),
    "index_add": lambda m, n: m.rows.index_add(0, whole(2, n - 1), torch.ones(2, WIDTH)),
    "index_copy": lambda m, n: m.rows.index_copy(0, torch.tensor([n - 1]), torch.ones(1, WIDTH)),
    "index_fill": lambda m, n: m.rows.index_fill(0, torch.tensor([n - 1]), 0.0),
    "index": lambda m, n: m.rows[torch.tensor([n - 1])],
    "index of the second dimension": lambda m, n: m.rows.T[:, torch.tensor([n - 1])],
    "index behind a mask": lambda m, n: m.rows[None][torch.ones(1, dtype=torch.bool), torch.tensor([n - 1])],
    "index_put": lambda m, n: m.rows.index_put((torch.tensor([n - 1]),), torch.zeros(WIDTH)),
    "take": lambda m, n: m.rows.take(torch.tensor([n * WIDTH - 1])),
    "nll_loss": lambda m, n: F.cross_entropy(m.rows.T, whole(WIDTH, n - 1)),
    "nll_loss of images": lambda m, n: F.cross_entropy(m.rows[None, :, :, None], whole(1, n - 1, WIDTH, 1)),
}


def fails(run: Callable[[], object], *errors: type[Exception]) -> bool:
    try:
        run()
    except errors:
        return True
    return False


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("count", [ROWS, ROWS + 1])
@pytest.mark.parametrize("name", CALLS)
def test_a_trace_takes_the_indices_that_pytorch_takes(name: str, count: int, device: str) -> None:
    model, x = Model(lambda m: CALLS[name](m, count)), torch.ones(1)
    refused = fails(lambda: model(x), IndexError, RuntimeError)
    assert refused is (count > ROWS)
    assert fails(lambda: trace(model, (x,), loss=lambda out: out, device=device), ForetraceError) is refused


TAKEN: dict[str, Forward] = {
    "targets that are ignored": lambda m: F.cross_entropy(m.rows, whole(ROWS, -100)),
    "some targets that are ignored": lambda m: F.cross_entropy(
        m.rows, torch.arange(ROWS) % (WIDTH + 1), ignore_index=WIDTH
    ),
    "indices from the end": lambda m: m.rows[torch.tensor([-1, -ROWS])],
    "a mask": lambda m: m.rows[torch.ones(ROWS, dtype=torch.bool)],
    "no index": lambda m: m.rows.index_select(0, torch.arange(0)).sum() + m.rows.sum(),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_lies_inside_or_is_ignored_is_taken(name: str) -> None:
    model, x = Model(TAKEN[name]), torch.ones(1)
    assert model(x).shape == ()
    assert trace(model, (x,), loss=lambda out: out, device="cuda").ops


def test_a_sequence_longer_than_the_positions_is_told_with_both_sizes() -> None:
    said = r"raised IndexError: index 1000 is out of range for the 1,000 that aten.embedding.default.*positions"
    with pytest.raises(ForetraceError, match=said):
        trace(Model(lambda m: m.table(torch.arange(ROWS + 1))), (torch.ones(1),), loss=lambda out: out)


def test_values_that_were_drawn_for_a_spec_are_not_looked_at() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(2, 8)

        def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(self.table(ids[:, 1:].contiguous() + 0).flatten(0, 1), targets.flatten())

    assert trace(Words(), {"ids": "int64[64, 65]", "targets": "int64[64, 64]"}, loss=lambda out: out).ops
    ids = torch.full((64, 65), 2)
    with pytest.raises(ForetraceError, match="index 2 is out of range for the 2"):
        trace(Words(), {"ids": ids, "targets": "int64[64, 64]"}, loss=lambda out: out)
