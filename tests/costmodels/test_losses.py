"""Losses: a count for each element, and picks that do not read the whole row."""

from opbuilder import new, work

from foretrace.costmodels import Work

ROWS, CLASSES = 6, 50


def test_nll_reads_one_score_a_row():
    scores, target = new(ROWS, CLASSES), new(ROWS, dtype="int64")
    counted = work(
        "aten.nll_loss_forward.default", (new(), new()), self=scores, target=target, weight=None, reduction=1
    )
    assert counted == Work(vector_flops=2 * ROWS, read_bytes=8 * ROWS + 4 * ROWS, written_bytes=8)


def test_nll_backward_fills_and_then_writes_one_a_row():
    scores, target = new(ROWS, CLASSES), new(ROWS, dtype="int64")
    given = {"grad_output": new(), "self": scores, "target": target, "weight": None, "total_weight": new()}
    assert work("aten.nll_loss_backward.default", new(ROWS, CLASSES), **given) == Work(
        vector_flops=2 * ROWS,
        read_bytes=4 + 8 * ROWS + 4,
        written_bytes=4 * ROWS * CLASSES + 4 * ROWS,
    )


def test_a_reduction_is_one_add_per_element():
    given = {"self": new(4, 5), "target": new(4, 5)}
    assert work("aten.mse_loss.default", new(), **given) == Work(vector_flops=60, read_bytes=160, written_bytes=4)
    assert work("aten.mse_loss.default", new(4, 5), **given, reduction=0).vector_flops == 40
    assert work("aten.mse_loss_backward.default", new(4, 5), grad_output=new(), **given).vector_flops == 60


def test_a_weight_is_one_multiply_per_element():
    given = {"self": new(20), "target": new(20), "reduction": 0}
    plain = work("aten.binary_cross_entropy.default", new(20), **given)
    weighted = work("aten.binary_cross_entropy.default", new(20), **given, weight=new(20))
    assert (plain.vector_flops, weighted.vector_flops) == (140, 160)


def test_a_weighted_derivative():
    given = {"grad_output": new(), "self": new(20), "target": new(20)}
    name = "aten.binary_cross_entropy_backward.default"
    assert work(name, new(20), **given).vector_flops == 140
    assert work(name, new(20), **given, weight=new(20)).vector_flops == 160


def test_cudnns_ctc_loss_is_both_recursions_and_the_gradient():
    scores, targets = new(100, 4, 8), new(12, dtype="int32")
    lengths = {name: new(4, dtype="int32") for name in ("input_lengths", "target_lengths")}
    made = new(4), new(100, 4, 8)
    counted = work("aten._cudnn_ctc_loss.Tensor", made, log_probs=scores, targets=targets, **lengths)
    states = 100 * (4 * (2 * 3 + 1))
    assert counted == Work(
        vector_flops=31 * states + 3 * 3200,
        read_bytes=4 * 3200 + 4 * 12 + 2 * 4 * 4 + 8 * states,
        written_bytes=4 * 4 + 4 * 3200 + 8 * states,
    )


def test_a_chunked_cross_entropy_has_a_product_for_the_logits_and_one_for_each_gradient():
    given = {"input": new(8, 4), "linear_weight": new(10, 4), "target": new(8, dtype="int64")}
    name, wanted = "torch_nn._linear_cross_entropy_batch_chunked", ("compute_input_grad", "compute_linear_weight_grad")
    made = new(), new(8, 4), new(10, 4), new(0)
    both = work(f"{name}.default", made, **given, **dict.fromkeys(wanted, True))
    assert (both.tensor_flops, both.vector_flops) == (3 * 2 * 8 * 4 * 10, 6 * 80)
    none = work(f"{name}_no_reduction.default", new(8), **given)
    assert (none.tensor_flops, none.vector_flops) == (2 * 8 * 4 * 10, 4 * 80)
