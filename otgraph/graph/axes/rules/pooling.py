"""Pooling, resizing and padding of spatial axes: channels go through."""

from __future__ import annotations

from otgraph.graph.axes.call import Builder, Call, axes, text_of
from otgraph.graph.axes.rule import AxisRule


def spatial(count: int) -> Builder:
    """Operators that change the last ``count`` axes of their first operand and nothing else."""

    def build(call: Call) -> AxisRule | None:
        if len(call.operands) != 1:
            return None
        lead = " ".join(axes("n", call.operands[0].dim() - count))
        inside = " ".join(axes("h", count, "!"))
        results = ", ".join(
            f"{lead} {' '.join(axes(f'y{i}_', count, '!'))}" for i in range(len(call.results))
        )
        return call.rule(f"{lead} {inside} -> {results}")

    return build


def pad(call: Call) -> AxisRule:
    """``aten.constant_pad_nd(x, pad, value)``: a padded axis gains fixed parts at its ends."""
    x, amounts = call.operands[0], list(call.argument(1, "pad"))
    value = float(call.argument(2, "value", 0) or 0)
    source, target = axes("a", x.dim()), axes("a", x.dim())
    sizes: dict[str, int] = {}
    for k in range(len(amounts) // 2):
        axis, before, after = x.dim() - 1 - k, int(amounts[2 * k]), int(amounts[2 * k + 1])
        if before < 0 or after < 0:
            source[axis] += "!"
            target[axis] = f"c{axis}!"
        else:
            parts = [f"b{axis}!"] * (before > 0) + [source[axis]] + [f"e{axis}!"] * (after > 0)
            sizes |= {f"b{axis}": before, f"e{axis}": after, f"a{axis}": int(x.shape[axis])}
            target[axis] = "+".join(parts)
    kind = "always" if value else "any"
    return call.rule(f"{' '.join(source)} -> {' '.join(target)}", sizes=sizes, combine=kind)


def pixel_shuffle(call: Call) -> AxisRule:
    """``[…, c*r*r, h, w] -> […, c, h*r, w*r]``."""
    x, r = call.operands[0], int(call.argument(1, "upscale_factor"))
    lead = " ".join(axes("n", x.dim() - 3))
    sizes = {"r": r, "s": r, "c": int(x.shape[-3]) // (r * r)}
    return call.rule(f"{lead} c*r!*s! h! w! -> {lead} c y! z!", sizes=sizes)


def pixel_unshuffle(call: Call) -> AxisRule:
    """``[…, c, h*r, w*r] -> […, c*r*r, h, w]``."""
    x, r = call.operands[0], int(call.argument(1, "downscale_factor"))
    lead = " ".join(axes("n", x.dim() - 3))
    sizes = {"r": r, "s": r, "c": int(x.shape[-3])}
    return call.rule(f"{lead} c h! w! -> {lead} c*r!*s! y! z!", sizes=sizes)


def unfold_columns(call: Call) -> AxisRule:
    """``aten.im2col``: ``[n, c, h, w] -> [n, c*k, l]``."""
    x = call.operands[0]
    sizes = {"c": int(x.shape[-3]), "k": int(call.results[0].shape[-2]) // int(x.shape[-3])}
    lead = "n " if x.dim() == 4 else ""
    return call.rule(f"{lead}c h! w! -> {lead}c*k! l!", sizes=sizes)


def unfold(call: Call) -> AxisRule:
    """``aten.unfold(x, dim, size, step)``: one axis becomes overlapping windows, and their entries an axis of
    its own at the end."""
    x = call.operands[0]
    dim = int(call.argument(1, "dimension")) % x.dim()
    names = axes("a", x.dim())
    source, target = ([*names[:dim], f"{name}!", *names[dim + 1 :]] for name in ("h", "w"))
    return call.rule(text_of([source], [[*target, "k!"]]))


def grid_sample(call: Call) -> AxisRule:
    """``aten.grid_sampler_2d(x, grid)``."""
    return call.rule("n c h! w!, n a! b! t! -> n c a! b!")


RULES: dict[str, Builder] = {
    **dict.fromkeys(
        ["avg_pool1d", "max_pool1d", "adaptive_max_pool1d", "reflection_pad1d"]
        + ["replication_pad1d", "upsample_nearest1d", "upsample_linear1d", "max_pool1d_with_indices"],
        spatial(1),
    ),
    **dict.fromkeys(
        ["avg_pool2d", "max_pool2d", "max_pool2d_with_indices", "_adaptive_avg_pool2d", "adaptive_max_pool2d"]
        + ["reflection_pad2d", "replication_pad2d", "upsample_nearest2d", "upsample_bilinear2d"]
        + [
            "upsample_bicubic2d",
            "_upsample_bilinear2d_aa",
            "_upsample_bicubic2d_aa",
            "_upsample_nearest_exact2d",
        ]
        + ["mkldnn_max_pool2d", "adaptive_avg_pool2d"],
        spatial(2),
    ),
    **dict.fromkeys(
        ["avg_pool3d", "max_pool3d", "max_pool3d_with_indices", "_adaptive_avg_pool3d", "adaptive_max_pool3d"]
        + ["reflection_pad3d", "replication_pad3d", "upsample_nearest3d", "upsample_trilinear3d"],
        spatial(3),
    ),
    "constant_pad_nd": pad,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "im2col": unfold_columns,
    "unfold": unfold,
    "grid_sampler_2d": grid_sample,
}
