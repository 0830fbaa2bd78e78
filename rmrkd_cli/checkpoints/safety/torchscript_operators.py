"""The operators that a TorchScript file may use: mathematics on tensors, and Python's numbers, lists and texts.

Not here, and so refused: `save` and `from_file`, which write and read files; seeds; gradients, settings of the process,
threads and remote calls; operators that trust the sizes they are given; and everything outside `aten` and `prim`, such
as operators of other libraries.
"""

from __future__ import annotations

_ARITHMETIC = """
abs absolute acos acosh add addbmm addcdiv addcmul addmm addmv addr all allclose amax amin aminmax angle any arange
argmax argmin argsort argwhere as_tensor asin asinh atan atan2 atanh baddbmm bincount bitwise_and bitwise_left_shift
bitwise_not bitwise_or bitwise_right_shift bitwise_xor bmm bucketize cdist ceil clamp clamp_max clamp_min clip col2im
complex conj copysign cos cosh count_nonzero cross cummax cummin cumprod cumsum deg2rad degrees det diff dist div
divide divmod dot einsum empty empty_like eq equal erf erfc exp exp2 expm1 eye fabs factorial fft_fft fft_fft2
fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2
fft_rfftn fill float_power floor floor_divide floordiv fmax fmin fmod frac frobenius_norm full full_like ge ger
greater greater_equal gt hypot im2col imag inner isclose isfinite isin isinf isnan kron kthvalue le lerp less
less_equal linalg_cross linalg_det linalg_inv linalg_matmul linalg_matrix_norm linalg_norm linalg_solve
linalg_vector_norm linspace log log10 log1p log2 logaddexp logical_and logical_not logical_or logical_xor logit
logspace logsumexp lt mathremainder matmul matrix_exp matrix_power max maximum mean median min minimum mm mode mul
multiply mv nan_to_num nanmean nansum ne neg negative new_empty new_full new_ones new_zeros nonzero norm not_equal
nuclear_norm ones ones_like outer pairwise_distance polar positive pow prod quantile rad2deg radians real reciprocal
remainder renorm round rsqrt rsub scalar_tensor searchsorted sgn sign signbit sin sinc sinh sort special_erf
special_expit special_log_softmax special_logit special_softmax sqrt square std std_mean sub subtract sum tan tanh
tensor tensordot topk trace trapz tril tril_indices triu triu_indices true_divide trunc vander var var_mean vdot
view_as_complex view_as_real where xlogy zeros zeros_like
"""
_LAYERS = """
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
affine_grid_generator alpha_dropout avg_pool1d avg_pool2d avg_pool3d batch_norm bernoulli bilinear celu
channel_shuffle constant_pad_nd conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
cosine_similarity dropout elu embedding feature_alpha_dropout feature_dropout gelu glu grid_sampler grid_sampler_2d
group_norm gru gru_cell hardshrink hardsigmoid hardswish hardtanh instance_norm layer_norm leaky_relu linear
log_sigmoid log_softmax lstm lstm_cell max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices
max_pool3d max_unpool2d mish native_batch_norm native_channel_shuffle native_dropout native_group_norm
native_layer_norm one_hot pad pixel_shuffle pixel_unshuffle prelu reflection_pad1d reflection_pad2d relu relu6
replication_pad1d replication_pad2d rms_norm rrelu scaled_dot_product_attention selu sigmoid silu slow_conv_dilated2d
slow_conv_transpose2d softmax softplus softshrink thnn_conv2d threshold upsample_bicubic2d upsample_bilinear2d
upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
"""
_LOSSES = """
binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss cross_entropy_loss huber_loss kl_div l1_loss
mse_loss nll_loss nll_loss2d nll_loss_nd smooth_l1_loss soft_margin_loss
"""
_SHAPES = """
adjoint alias as_strided atleast_1d atleast_2d atleast_3d block_diag broadcast_shapes broadcast_tensors broadcast_to
cartesian_prod cat chunk clone column_stack concat concatenate contiguous copy copy_ cpu data detach diag diag_embed
diagonal dim dsplit dstack element_size expand expand_as flatten flip fliplr flipud gather get_device hsplit hstack
index index_add index_copy index_fill index_put index_select is_complex is_contiguous is_floating_point is_nonzero
is_signed item lift_fresh mH mT masked_fill masked_scatter masked_select matrix_H meshgrid moveaxis movedim narrow
numel numpy_T permute pin_memory promote_types ravel repeat repeat_interleave reshape reshape_as resolve_conj
resolve_neg result_type roll rot90 row_stack scatter scatter_add scatter_reduce select select_scatter size slice
slice_scatter split split_with_sizes squeeze stack storage_offset stride sum_to_size swapaxes swapdims sym_numel
sym_size sym_stride t take take_along_dim tensor_split tile to transpose type_as unbind unflatten unfold
unique_consecutive unique_dim unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze view view_as vsplit vstack
zero
"""
_PYTHON = """
Bool Complex ComplexImplicit Delete Float FloatImplicit Int IntImplicit ScalarImplicit Size append bin capitalize
center chr clear count degrees device dict endswith expandtabs extend find format get has_torch_function hash hex
insert is_autocast_cpu_enabled is_autocast_enabled is_grad_enabled is_scripting isalnum isalpha isdecimal isdigit
isidentifier islower isnumeric isprintable isspace istitle isupper items join keys len list ljust lower lstrip oct ord
partition percentFormat pop popitem range remove replace reverse rfind rindex rjust rpartition rsplit rstrip
setdefault sorted splitlines startswith str strip swapcase title update upper values warn zfill
"""
_UNDERSCORED = """
__derive_index __interpolate __range_length __upsample __upsample_bilinear __upsample_nearest _adaptive_avg_pool2d
_adaptive_avg_pool3d _assert_async _assert_scalar _cast_Byte _cast_Double _cast_Float _cast_Half _cast_Int _cast_Long
_cat _convolution _convolution_mode _dim_arange _euclidean_dist _get_tracing_state _infer_size _list_to_tensor
_log_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training _native_multi_head_attention
_pack_padded_sequence _pad_circular _pad_packed_sequence _reshape_from_tensor _scaled_dot_product_attention_math
_scaled_dot_product_flash_attention _set_item _shape_as_tensor _softmax _stack _tensor_to_list _to_copy
_transformer_encoder_layer_fwd _unique _unique2 _unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa
_upsample_lanczos2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d _weight_norm
"""
_PRIM = """
AutogradZero BroadcastSizes ChunkSizes ConstantChunk EnumName EnumValue IfThenElse ModuleContainerIndex NumToTensor
RaiseException StringIndex TupleIndex TupleUnpack Uninitialized VarConcat VarStack abs data device dtype id index
is_cpu is_cuda is_ipu is_maia is_meta is_mkldnn is_mps is_mtia is_nested is_quantized is_sparse is_sparse_csr
is_vulkan is_xla is_xpu itemsize layout max min name nbytes rangelist requires_grad tolist type unchecked_cast
unchecked_unwrap_optional
"""
_NAMES = " ".join((_ARITHMETIC, _LAYERS, _LOSSES, _SHAPES, _PYTHON, _UNDERSCORED, _PRIM)).split()
# `x.add_(y)` changes x, as `add` does in a new tensor; `__add__` is how `+` is written.
ALLOWED = frozenset([*_NAMES, *(f"{name}_" for name in _NAMES)])
