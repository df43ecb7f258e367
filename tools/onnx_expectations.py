"""Cases of ONNX's backend tests that store one implementation's rounding or reading, and the reason;
``tests/graph/test_onnx_expectations.py`` proves each.
"""

from __future__ import annotations

ROUNDING = (
    "the stored output is ONNX's reference softmax in half precision, which rounds after each subtraction, "
    "exponential, addition and division; torch rounds once and is nearer to the exact value"
)
FRACTION = (
    "the stored output divides by the resized length before it is rounded to an integer; the text of the "
    "operator, ONNX Runtime, OpenVINO and torch divide by the length of the resized tensor"
)
LISTED: dict[str, str] = {
    **dict.fromkeys(
        (
            "test_attention_3d_causal_bf16_expanded",
            "test_attention_4d_attn_mask_causal_bf16_expanded",
            "test_attention_4d_causal_bf16_expanded",
            "test_attention_4d_causal_fp16_expanded",
            "test_attention_4d_causal_padded_kv_bf16_expanded",
            "test_attention_4d_padded_kv_bf16_expanded",
        ),
        ROUNDING,
    ),
    **dict.fromkeys(
        (
            "test_resize_downsample_scales_cubic_align_corners",
            "test_resize_downsample_scales_linear_align_corners",
        ),
        FRACTION,
    ),
}
"""Case → why the dialect does not follow it."""
