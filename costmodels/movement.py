"""Turns ops that only make or move bytes into work: views, copies, casts, fills, factories, random draws.

*Movement* is work without arithmetic. A view moves nothing; a copy reads and writes each element once; a fill only
writes; an allocation does neither. A cast is a copy. Random draws are here because what they cost is the write:
the generator is integer arithmetic, and few FLOPs make its bits a number.
"""

from __future__ import annotations

from ..graph import Op
from .rules import aten, free, rule
from .work import NOTHING, Work, argument, moves, produced, touched, unchanged

free("foretrace.constant", because="Python wrote it into host memory; no op ran")
free(
    *aten(
        "view _unsafe_view view_as _reshape_alias reshape_as t numpy_T transpose permute movedim swapaxes swapdims "
        "expand expand_as squeeze unsqueeze slice select narrow split split_with_sizes unsafe_split "
        "unsafe_split_with_sizes chunk unsafe_chunk unbind as_strided diagonal unfold detach alias view_as_real "
        "view_as_complex lift_fresh lift _conj conj _neg_view mT mH adjoint unflatten values indices _values _indices "
        "_nested_view_from_buffer"
    ),
    because="moves no bytes: new strides over the same storage",
)
free(
    *aten(
        "empty empty_like empty_strided empty_permuted new_empty new_empty_strided _efficientzerotensor "
        "_new_zeros_with_same_feature_meta"
    ),
    because="takes memory and touches none of it",
)
free(
    *aten(
        "set_ resize_ resize_as_ _resize_output_ record_stream requires_grad_ _assert_async _functional_assert_async "
        "_assert_scalar _functional_assert_scalar _assert_tensor_metadata sym_size sym_numel sym_stride "
        "sym_storage_offset sym_constrain_range sym_constrain_range_for_size is_same_size _has_same_storage_numel "
        "_version is_pinned _debug_has_internal_overlap _nnpack_available _use_cudnn_ctc_loss "
        "_use_cudnn_rnn_flatten_weight _cudnn_init_dropout_state _print"
    ),
    "profiler._record_function_enter_new",
    "profiler._record_function_exit",
    because="asks or notes something on the host",
)


@rule(
    *aten(
        "clone contiguous reshape flatten copy copy_ _to_copy to type_as _to_cpu _pin_memory cat concat stack _stack "
        "_chunk_cat repeat tile roll flip rot90 tril triu diag_embed block_diag constant_pad_nd pad pixel_shuffle "
        "pixel_unshuffle channel_shuffle native_channel_shuffle reflection_pad1d reflection_pad2d reflection_pad3d "
        "replication_pad1d replication_pad2d replication_pad3d _pad_circular repeat_interleave im2col "
        "_conj_physical conj_physical resolve_conj resolve_neg _lazy_clone lift_fresh_copy _local_scalar_dense item "
        "to_dense to_mkldnn _mkldnn_reshape mkldnn_reorder_conv2d_weight _cudnn_rnn_flatten_weight "
        "_foreach_copy _pack_padded_sequence _pad_packed_sequence to_padded_tensor "
        "_nested_from_padded _nested_from_padded_tensor _jagged_to_padded_dense_forward "
        "_padded_dense_to_jagged_forward diag meshgrid cartesian_prod combinations"
    ),
    *aten(
        "_reshape_alias_copy _reshape_copy alias_copy as_strided_copy detach_copy diagonal_copy expand_copy "
        "permute_copy narrow_copy select_copy slice_copy split_copy split_with_sizes_copy squeeze_copy t_copy "
        "transpose_copy unbind_copy unfold_copy unsqueeze_copy view_copy view_as_real_copy view_as_complex_copy"
    ),
)
def copying(op: Op) -> Work:
    """Each element is read and written once; what is only overwritten is not read. Nothing where it made a view."""
    return NOTHING if op.is_view else moves(op, read=unchanged(op))


@rule(
    *aten(
        "zeros zeros_like ones ones_like full full_like new_zeros new_ones new_full scalar_tensor eye fill fill_ zero_ "
        "zero fill_diagonal_ _foreach_zero tril_indices triu_indices"
    )
)
def filling(op: Op) -> Work:
    """Each element is written once. A tensor argument is there for its shape, or is one value."""
    return moves(op, read=())


@rule(*aten("arange range linspace logspace"))
def counting(op: Op) -> Work:
    """start + step * i: a multiply and an add for each element."""
    return moves(op, vector_flops=2 * produced(op), read=())


DRAW_FLOPS = {
    1: "bernoulli bernoulli_ randint randint_like random random_",
    2: "rand rand_like uniform uniform_",
    7: "randn randn_like normal normal_ log_normal log_normal_ normal_functional",
}
"""FLOPs per number drawn. A comparison or a range; scale and shift; Box-Muller (log, multiply, root, sine or cosine,
multiply) with scale and shift."""


def drawing(op: Op) -> Work:
    """Each element is drawn and written; tensors of probabilities or means are read."""
    flops = next(count for count, names in DRAW_FLOPS.items() if op.packet in aten(names))
    like = op.packet.endswith("_like")
    return moves(op, vector_flops=flops * produced(op), read=() if like else unchanged(op))


for _names in DRAW_FLOPS.values():
    rule(*aten(_names))(drawing)


@rule("aten.multinomial")
def multinomial(op: Op) -> Work:
    """The running sum of the weights and their scaling: two per weight; the draws are few beside them."""
    return moves(op, vector_flops=2 * op.tensor("self").numel)


@rule(*aten("poisson binomial _standard_gamma _sample_dirichlet"))
def rejecting(op: Op) -> Work:
    """Draws by rejection: some ten FLOPs a try, and mostly one try for each element."""
    return moves(op, vector_flops=10 * produced(op))


@rule(
    *aten(
        "slice_backward select_backward diagonal_backward index_select_backward value_selecting_reduction_backward "
        "masked_select_backward embedding_backward trace_backward"
    )
)
def into_zeros(op: Op) -> Work:
    """Fill a tensor with zeros, then write the gradient into its part of it."""
    gradient = argument(op, "grad_output", "grad")
    return moves(op) + Work(written_bytes=min(gradient.bytes, touched(op.outputs)))


@rule(*aten("slice_scatter select_scatter diagonal_scatter as_strided_scatter"))
def into_copy(op: Op) -> Work:
    """Copy a tensor, then write another into a part of the copy."""
    return moves(op) + Work(written_bytes=op.tensor("src").bytes)


@rule(
    *aten(
        "reflection_pad1d_backward reflection_pad2d_backward reflection_pad3d_backward replication_pad1d_backward "
        "replication_pad2d_backward replication_pad3d_backward unfold_backward col2im"
    )
)
def folding(op: Op) -> Work:
    """Each element of the gradient is added into its place; the padded input is there only for its shape."""
    source = argument(op, "grad_output", "grad_in", "self")
    return moves(op, vector_flops=source.numel, read=[source])
