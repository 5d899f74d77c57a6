"""Inputs: specs with sizes, inputs that are proposed, and modules inside wrappers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import foretrace
from foretrace import cli
from foretrace.graph import ForetraceError, Named
from foretrace.tracer import Step, trace, trace_target
from foretrace.tracer.inputs import Sizes, as_call, size_names

# -- specs ----------------------------------------------------------------------------------------


def described(values: Any) -> Any:
    return [(value.dtype, tuple(value.shape)) for value in values]


def test_a_spec_has_names_products_and_numbers_for_sizes() -> None:
    sizes = Sizes({"batch": 8, "seq": 16, "kind": "gelu"})
    args, kwargs = as_call(
        "float32[batch, 4]; ids: int64[batch, 2*seq]\nmask: bool[ 2 * batch*seq ]; one: int8[]", sizes
    )
    assert described(args) == [(torch.float32, (8, 4))]
    assert list(kwargs) == ["ids", "mask", "one"]
    assert described(kwargs.values()) == [(torch.int64, (8, 32)), (torch.bool, (256,)), (torch.int8, ())]
    assert (sizes.unused({"batch", "seq"}), sizes.unused({"batch", "kind"})) == (None, "kind")


def test_specs_stand_for_values_in_a_tuple_and_a_dict() -> None:
    sizes = Sizes({"batch": 3})
    assert described(as_call(("float32[batch]",), sizes)[0]) == [(torch.float32, (3,))]
    assert described(as_call({"x": "int32[batch, 1]"}, sizes)[1].values()) == [(torch.int32, (3, 1))]


def test_size_names() -> None:
    assert size_names("x: int64[batch, 2*seq, 4]; float32[width]; nonsense") == {"batch", "seq", "width"}


@pytest.mark.parametrize(
    ("spec", "sizes", "message"),
    [
        ("x: float32[batch]", {}, "the size 'batch' is not set"),
        ("x: float32[batch]", {"batch": "big"}, "the size 'batch' is 'big'"),
        ("x: float32[batch]", {"batch": True}, "the size 'batch' is True"),
        ("x: float32[batch]", {"batch": -1}, "the size 'batch' is -1"),
        ("x: float32[batch+1]", {"batch": 1}, "no whole number, name or product"),
        ("x: float32[2*]", {}, "no whole number, name or product"),
        ("x: float[batch", {}, "cannot be read"),
    ],
)
def test_a_bad_spec_gets_one_line_and_the_mend(spec: str, sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ForetraceError) as raised:
        as_call(spec, Sizes(sizes))
    assert message in raised.value.message
    assert raised.value.mend


def test_sizes_of_a_trace_and_of_a_step() -> None:
    model = nn.Linear(4, 1)
    for graph in (
        trace(model, "float32[batch, 4]", loss=torch.sum, sizes={"batch": 3}, device="cpu"),
        trace(lambda: Step(model, "float32[batch, 4]", torch.sum, sizes={"batch": 3}), device="cpu"),
    ):
        assert [(one.shape, one.dtype) for one in graph.facts.inputs] == [((3, 4), "float32")]
    with pytest.raises(ForetraceError, match="nothing uses the size 'seq'"):
        trace(model, "float32[batch, 4]", loss=torch.sum, sizes={"batch": 3, "seq": 3}, device="cpu")


MODEL = """
import torch
from foretrace import Step

class Net(torch.nn.Module):
    def __init__(self, width=4, **options):
        super().__init__()
        self.linear = torch.nn.Linear(width, 1)

    def forward(self, x):
        return self.linear(x).sum()

def make(width=4):
    return Step(Net(width), "x: float32[batch, 4]")
"""


@pytest.fixture
def model_file(tmp_path: Path) -> str:
    path = tmp_path / "net_with_inputs.py"
    path.write_text(MODEL)
    return str(path)


def test_a_class_is_a_target_and_its_inputs_are_specs(model_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    saved = str(Path(model_file).parent / "net.foretrace")
    command = ["run", f"{model_file}:Net", "--input", "x: float32[batch, width]", "-p", "batch=3", "-p", "width=16"]
    assert cli.main([*command, "--device", "cpu", "--save", saved]) == 0, capsys.readouterr().err
    facts = foretrace.load(saved).facts
    assert facts.arguments == {"batch": 3, "width": 16}
    assert ([one.shape for one in facts.inputs], facts.parameters[0].shape) == ([(3, 16)], (1, 16))
    assert cli.main(["run", saved, "--input", "x: float32[2]"]) == 2
    assert "--input means nothing for a saved trace" in capsys.readouterr().err


def test_sizes_of_the_targets_own_specs(model_file: str) -> None:
    graph = trace_target(f"{model_file}:make", {"batch": 5}, device="cpu")
    assert [one.shape for one in graph.facts.inputs] == [(5, 4)]
    for inputs in (None, "x: float32[batch, 4]"):
        with pytest.raises(ForetraceError, match=r"unexpected keyword argument 'wide'.*It takes"):
            trace_target(f"{model_file}:make", {"batch": 5, "wide": 2}, inputs=inputs, device="cpu")


def test_inputs_that_are_missing_are_asked_for(model_file: str) -> None:
    with pytest.raises(
        ForetraceError, match=r'Net was given no inputs, and takes \(x\).*--input "x: float32'
    ) as raised:
        trace_target(f"{model_file}:Net", {}, device="cpu")
    assert raised.value.__cause__ is None


TINY = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.kinds, self.head = torch.nn.Embedding(2, 4), torch.nn.Linear(4, 3)

    def forward(self, ids, labels):
        return torch.nn.functional.cross_entropy(self.head(self.kinds(ids)).flatten(0, 1), labels.flatten())
"""


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_whole_numbers_of_a_spec_may_be_looked_up_in_a_small_table(tmp_path: Path, device: str) -> None:
    (tmp_path / "tiny_table.py").write_text(TINY)
    target, specs = f"{tmp_path}/tiny_table.py:Net", "ids: int64[2, 30]; labels: int64[2, 30]"
    names = [op.packet for op in trace_target(target, inputs=specs, device=device).ops]
    assert {"aten.embedding", "aten.nll_loss_forward"} <= set(names)
    with pytest.raises(ForetraceError, match=r"index out of range.*whole numbers is drawn below 100"):
        foretrace.measure(target, inputs=specs)


# -- proposals: transformers ----------------------------------------------------------------------

TEXT = {"vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
ENCODER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2} | {
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 24,
}
PRETRAINED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "causal": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {**TEXT, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32},
        "input_ids int64[8, 32], labels int64[8, 32]",
    ),
    "masked, positions from behind the padding index": (
        "RobertaForMaskedLM",
        "RobertaConfig",
        {**TEXT, **ENCODER, "pad_token_id": 1, "max_position_embeddings": 34},
        "input_ids int64[8, 32], labels int64[8, 32]",
    ),
    "seq2seq, which makes the decoder's inputs of the labels": (
        "BartForConditionalGeneration",
        "BartConfig",
        {**TEXT, **BART, "decoder_start_token_id": 2, "forced_eos_token_id": 2},
        "input_ids int64[8, 24], labels int64[8, 24]",
    ),
    "seq2seq, which cannot": (
        "T5Model",
        "T5Config",
        {**TEXT, **T5},
        "input_ids int64[8, 1024], decoder_input_ids int64[8, 1024]",
    ),
    "vision": (
        "ViTForImageClassification",
        "ViTConfig",
        {**ENCODER, "image_size": 16, "patch_size": 8, "num_labels": 5},
        "pixel_values float32[8, 3, 16, 16], labels int64[8]",
    ),
    "questions": (
        "BertForQuestionAnswering",
        "BertConfig",
        {**TEXT, **ENCODER, "max_position_embeddings": 16},
        "input_ids int64[8, 16], start_positions int64[8], end_positions int64[8]",
    ),
    "sound": (
        "Wav2Vec2ForSequenceClassification",
        "Wav2Vec2Config",
        {**ENCODER, "conv_dim": [16] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2},
        "input_values float32[8, 160000], labels int64[8]",
    ),
}


def pretrained(name: str) -> tuple[nn.Module, str]:
    transformers = pytest.importorskip("transformers")
    kind, config, fields, said = PRETRAINED[name]
    return getattr(transformers, kind)(getattr(transformers, config)(**fields)), said


def shapes(inputs: tuple[Named, ...]) -> list[tuple[str, tuple[int, ...]]]:
    return [(one.dtype, one.shape) for one in inputs]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", PRETRAINED)
def test_inputs_are_proposed_for_transformers_and_said(name: str, device: str) -> None:
    model, said = pretrained(name)
    graph = trace(model, device=device)
    assert graph.facts.notes[0] == f"inputs proposed: {said}"
    assert len(graph.facts.inputs) == len(said.split("], "))
    assert {span.phase for span in graph.spans} == {"forward", "backward", "optimizer", "zero_grad"}


def test_proposals_follow_the_sizes_that_are_set() -> None:
    model, _ = pretrained("causal")
    graph = trace(model, sizes={"batch": 2, "seq": 5}, device="cpu")
    assert shapes(graph.facts.inputs) == [("int64", (2, 5)), ("int64", (2, 5))]
    with pytest.raises(ForetraceError, match="nothing uses the size 'image'"):
        trace(model, sizes={"image": 2}, device="cpu")
    alone = trace(model, step="inference", sizes={"seq": 5}, device="cpu")
    assert alone.facts.notes[0] == "inputs proposed: input_ids int64[8, 5]"


@pytest.mark.parametrize("name", PRETRAINED)
def test_ids_are_below_the_vocabulary_and_labels_below_the_classes(name: str) -> None:
    from foretrace.tracer.propose import propose

    model, _ = pretrained(name)
    proposal = propose(model, Sizes({"batch": 2} if name == "sound" else {}), training=True)
    assert proposal is not None
    for key, value in proposal.given.kwargs.items():
        if not value.is_floating_point():
            classes = model.config.num_labels if value.dim() == 1 and key == "labels" else TEXT["vocab_size"]
            assert 0 <= int(value.min()) <= int(value.max()) < classes
            assert key != "input_ids" or not {0, 1, 2} & set(value.flatten().tolist())
    assert model(**proposal.given.kwargs) is not None  # it runs for real


# -- proposals: modules that look like those of timm and torchvision -------------------------------


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, stride=4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.stem(x).mean((2, 3)))


class LikeTimm(Images):
    default_cfg: ClassVar = {"input_size": (3, 32, 32), "first_conv": "stem"}
    num_classes = 3


class LikeTorchvision(Images):
    __module__ = "torchvision.models.resnet"

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x[:, :1])


class LikeDetection(Images):
    __module__ = "torchvision.models.detection.faster_rcnn"

    class transform:
        min_size, fixed_size = (16, 32), None

    def forward(self, images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]] | None = None) -> Any:
        output = super().forward(torch.stack(images)[:, :1])
        assert targets is not None and [set(target) for target in targets] == [{"boxes", "labels"}] * len(images)
        return {"classes": output.mean(), "boxes": (output[:, :1] - targets[0]["boxes"]).square().mean()}


VISION: dict[type[nn.Module], tuple[str, str]] = {
    LikeTimm: ("float32[8, 1, 32, 32]", "cross-entropy on class ids"),
    LikeTorchvision: ("float32[8, 3, 224, 224]", "cross-entropy on class ids"),
    LikeDetection: (
        "2 x (float32[3, 32, 32]), 2 x (boxes float32[1, 4], labels int64[1])",
        "sum of the losses returned",
    ),
}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("kind", VISION)
def test_inputs_and_a_loss_are_proposed_for_vision(kind: type[nn.Module], device: str) -> None:
    inputs, loss = VISION[kind]
    assert trace(kind(), device=device).facts.notes == (f"inputs proposed: {inputs}", f"loss proposed: {loss}")


def test_a_loss_that_is_given_is_taken() -> None:
    notes = trace(LikeTimm(), loss=torch.sum, sizes={"batch": 2, "image": 16}, device="cpu").facts.notes
    assert notes == ("inputs proposed: float32[2, 1, 16, 16]",)


def test_data_on_the_gpu_is_copied_there() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scale = torch.tensor([2.0], device=x.device, requires_grad=True)
            assert (scale.device.type, scale.requires_grad, scale.tolist()) == ("cuda", True, [2.0])
            return (super().forward(x) * scale * torch.as_tensor(3.0, device="cuda")).sum()

    assert trace(Scaled(4, 4), "float32[2, 4]", device="cuda").ops


# -- wrappers -------------------------------------------------------------------------------------


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))


def compiled_inside() -> nn.Module:
    model = layers()
    model[0].compile()
    return model


COMPILED = "torch.compile was left out: the step is traced as it runs without it"
PARALLEL = "DataParallel was left out: the step is traced as the module inside runs on one device"


@pytest.mark.parametrize(
    ("make", "notes"),
    [
        (lambda: torch.compile(layers()), (COMPILED,)),
        (compiled_inside, (COMPILED,)),
        (lambda: nn.DataParallel(layers()), (PARALLEL,)),
        (lambda: nn.DataParallel(torch.compile(layers())), (PARALLEL, COMPILED)),
    ],
)
def test_wrappers_are_traced_through_and_said(make: Callable[[], Any], notes: tuple[str, ...]) -> None:
    plain = trace(layers(), "float32[2, 4]", loss=torch.sum, device="cuda")
    graph = trace(make(), "float32[2, 4]", loss=torch.sum, device="cuda")
    assert graph.facts.notes == notes
    assert [(op.name, op.module) for op in graph.ops] == [(op.name, op.module) for op in plain.ops]


@pytest.fixture
def one_process(tmp_path: Path) -> Any:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch was built without distributed")
def test_a_step_function_may_speak_to_its_wrapper(one_process: None) -> None:
    def step(model: Any, optimizer: Any, inputs: Any) -> None:
        with model.no_sync():
            model(inputs).sum().backward()
        model.module(inputs).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    model = nn.parallel.DistributedDataParallel(layers())
    graph = trace(model, "float32[2, 4]", step=step, device="cpu")
    assert graph.facts.notes == (f"Distributed{PARALLEL}",)
    assert [span.phase for span in graph.spans[:4]] == ["forward", "backward"] * 2
    assert not hasattr(model.module, "no_sync")
    model(torch.randn(2, 4)).sum().backward()


def test_a_scripted_module_is_refused() -> None:
    scripted = torch.jit.script(nn.Linear(4, 1))
    for model, what in ((scripted, "the model"), (nn.Sequential(scripted), "the module '0'")):
        with pytest.raises(ForetraceError, match=f"{what} is scripted .*it was scripted from"):
            trace(model, "float32[2, 4]", loss=torch.sum)
