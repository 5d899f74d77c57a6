"""Other ways to run the same step: what each of them leaves alive, and that nothing of it stays."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from foretrace.costmodels import timeline
from foretrace.graph import ForetraceError, StepGraph
from foretrace.report import price
from foretrace.report.what_if import ALREADY, what_if
from foretrace.tracer import trace
from foretrace.tracer.variants import VARIANTS, blocks
from small_models import GPT


class Checkpointed(GPT):
    """The same model with checkpoints written by hand."""

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.h:
            x = checkpoint(block, x, use_reentrant=False)
        return nn.functional.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def step(model: nn.Module, variant: str | None = None, device: str = "cuda") -> StepGraph:
    ids = torch.zeros(2, 32, dtype=torch.int64)
    return trace(model, {"ids": ids, "targets": ids}, device=device, variant=variant)


def test_checkpointed_blocks_are_those_of_a_model_that_checkpoints_by_hand() -> None:
    assert step(GPT(), "checkpointed").events == step(Checkpointed()).events


def test_a_model_that_keeps_keys_and_values_keeps_none_while_it_is_checkpointed() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}

    def made(use_cache: bool) -> tuple[nn.Module, dict[str, torch.Tensor]]:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=64, use_cache=use_cache, **sizes))
        ids = torch.zeros(2, 16, dtype=torch.int64)
        return model, {"input_ids": ids, "labels": ids}

    model, inputs = made(use_cache=True)
    graph = trace(model, inputs, variant="checkpointed")
    assert graph.events == trace(*made(use_cache=False), variant="checkpointed").events
    assert model.config.use_cache is True


def test_a_step_whose_attention_is_fused_is_told_so() -> None:
    def again(variant: str | None = None, autocast: str | None = None) -> StepGraph:
        return step(GPT(), variant)

    report = price(step(GPT()), on="a100-sxm4-80gb")
    assert any(op.packet == "aten._scaled_dot_product_efficient_attention" for op in report.trace.ops)
    assert what_if(report, again).left_out["fused attention"] == ALREADY


def test_blocks_are_the_outermost_of_a_kind() -> None:
    nested = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)))
    assert blocks(nested) == list(nested)
    assert blocks(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))) == []
    with pytest.raises(ForetraceError, match="no repeated blocks"):
        trace(nn.Linear(4, 4), (torch.zeros(2, 4),), loss=torch.sum, variant="checkpointed")


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"fused-attention"}))
def test_a_variant_is_gone_afterwards(name: str) -> None:
    model = GPT()
    before = {path: set(module.__dict__) for path, module in model.named_modules()}
    plain = step(model).events
    step(model, name)
    assert {path: set(module.__dict__) for path, module in model.named_modules()} == {
        k: set(v) for k, v in before.items()
    }
    assert step(model).events == plain


def test_zeroed_gradients_are_live_in_forward() -> None:
    plain, zeroed = timeline(step(GPT())), timeline(step(GPT(), "zeroed-gradients"))
    parameters = sum(p.numel() * 4 for p in GPT().parameters())
    assert zeroed.start_bytes - plain.start_bytes == parameters


def test_the_optimizers_implementation_is_exchanged() -> None:
    names = {name: {op.packet for op in step(GPT(), name).ops} for name in ("fused-optimizer", "for-loop-optimizer")}
    assert "aten._fused_adamw_" in names["fused-optimizer"]
    assert not [name for name in names["for-loop-optimizer"] if "foreach" in name]


def test_attention_written_out_keeps_its_scores() -> None:
    softmaxes = {
        name: [op for op in step(GPT(), name).ops if op.packet in ("aten._softmax", "aten._safe_softmax")]
        for name in ("written-out-attention", None)
    }
    assert len(softmaxes["written-out-attention"]) == 3 and softmaxes[None] == []


def test_an_unknown_variant_is_one_line() -> None:
    with pytest.raises(ForetraceError, match="there is no variant 'faster'"):
        step(GPT(), "faster")


def test_a_module_that_refuses_fused_attention_is_told_so() -> None:
    """As transformers refuses it for models that have none."""

    class Refusing(GPT):
        config = SimpleNamespace(_attn_implementation="eager")

        def set_attn_implementation(self, name: str) -> None:
            raise ValueError("no attention through scaled_dot_product_attention yet\nMore about it elsewhere.")

    with pytest.raises(ForetraceError, match=r"refuses fused attention: no .*_attention yet\. Exchange") as caught:
        step(Refusing(), "fused-attention")
    assert caught.value.mend == "Exchange it in the code."
