"""Families of operations, for listings and for rules that treat a family alike."""

from __future__ import annotations

KINDS: dict[str, tuple[str, ...]] = {
    "input": ("input",),
    "constant": (
        *(
            "literal",
            "arange",
            "zeros",
            "ones",
            "full",
            "scalar_tensor",
            "eye",
            "linspace",
            "tril",
            "triu",
        ),
        *(
            "zeros_like",
            "ones_like",
            "full_like",
            "empty",
            "rand",
            "randn",
            "rand_like",
            "randn_like",
            "new_ones",
            "new_zeros",
            "new_full",
        ),
    ),
    "convolution": (
        *("conv1d", "conv2d", "conv3d", "convolution"),
        *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    ),
    "dense": ("linear", "addmm", "bilinear"),
    "product": ("matmul", "mm", "bmm", "baddbmm", "addbmm", "dot", "mv", "addmv", "einsum"),
    "attention": ("scaled_dot_product_attention",),
    "recurrent": (
        *("lstm", "gru", "rnn_tanh", "rnn_relu"),
        *("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
    ),
    "normalisation": ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"),
    "activation": (
        *("relu", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish"),
        *("softplus", "softsign", "tanh", "sigmoid", "relu6", "hardtanh", "hardswish", "glu"),
        *("hardsigmoid", "log_sigmoid", "threshold", "erf", "sin", "cos", "exp", "clamp"),
    ),
    "softmax": ("softmax", "log_softmax", "_softmax", "_safe_softmax"),
    "pooling": (
        *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
        *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "lp_pool2d"),
        *("adaptive_max_pool1d", "adaptive_max_pool2d", "max_pool2d_with_indices"),
    ),
    "embedding": ("embedding", "embedding_bag"),
    "reduction": (
        "mean",
        "sum",
        "amax",
        "amin",
        "max",
        "min",
        "norm",
        "linalg_vector_norm",
        "var",
        "std",
        "cumsum",
    ),
    "arithmetic": (
        *("add", "sub", "rsub", "mul", "div", "neg", "pow", "sqrt", "rsqrt", "abs", "square"),
        *("reciprocal", "log", "log2", "log1p", "expm1", "sign", "minimum", "maximum", "diff"),
        *(
            "floor_divide",
            "remainder",
            "floor",
            "round",
            "lerp",
            "addcmul",
            "clamp_min",
            "clamp_max",
        ),
    ),
    "comparison": (
        *("eq", "ne", "lt", "le", "gt", "ge", "__and__", "__or__", "logical_and", "logical_or"),
        *("logical_not", "bitwise_not", "bitwise_and", "isinf", "isnan", "where", "masked_fill"),
    ),
    "shape": (
        *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "select"),
        *("permute", "transpose", "t", "movedim", "slice", "narrow", "alias", "detach", "chunk"),
        *("split", "split_with_sizes", "unbind", "getitem", "to", "contiguous", "expand_as"),
        *(
            "view_as",
            "numpy_T",
            "diagonal",
            "unfold",
            "view_as_real",
            "view_as_complex",
            "_conj",
            "type_as",
        ),
    ),
    "copy": (
        *("cat", "stack", "clone", "pad", "constant_pad_nd", "repeat", "roll", "flip", "index"),
        *("slice_scatter", "select_scatter", "index_select", "gather", "copy", "tile", "im2col"),
        *(
            "repeat_interleave",
            "argmax",
            "topk",
            "sort",
            "bucketize",
            "one_hot",
            "triu_indices",
            "fill",
            "col2im",
            "embedding_renorm",
        ),
    ),
    "resampling": (
        "upsample_nearest2d",
        "upsample_bilinear2d",
        "upsample_bicubic2d",
        "pixel_shuffle",
        "pixel_unshuffle",
        "grid_sampler",
    ),
    "dropout": ("dropout", "feature_dropout", "alpha_dropout", "native_dropout"),
}
_KIND = {op: kind for kind, ops in KINDS.items() for op in ops}


def kind_of(op: str) -> str:
    """Return the family of an operation, "other" for one that is in none."""
    return _KIND.get(op, "other")
