"""The built-in passes, one per file; file, class and command-line name agree. Found by entry point."""

from __future__ import annotations

CATALOG = {
    "annotate-width": "passes.annotate_width:AnnotateWidth",
    "annotate-depth": "passes.annotate_depth:AnnotateDepth",
    "prune-channels": "passes.prune_channels:PruneChannels",
    "reexpress-channels": "passes.reexpress_channels:ReexpressChannels",
    "reroute-channels": "passes.reroute_channels:RerouteChannels",
    "collapse-spans": "passes.collapse_spans:CollapseSpans",
    "linearize-activations": "passes.linearize_activations:LinearizeActivations",
    "repair-least-squares": "passes.repair_least_squares:RepairLeastSquares",
    "repair-moments": "passes.repair_moments:RepairMoments",
    "fuse-linear": "passes.fuse_linear:FuseLinear",
    "fold-batch-norm": "passes.fold_batch_norm:FoldBatchNorm",
    "cleanup": "passes.cleanup:Cleanup",
    "to-fp16": "passes.to_fp16:ToFp16",
    "to-int8": "passes.to_int8:ToInt8",
}

PIPELINES = {
    # Re-expressing reads the channels that the cut removes, so it comes first; repairs use batch norms.
    # Moments are not matched: after least squares that is seldom better on held-out inputs.
    "apply": (
        "reexpress-channels,prune-channels,collapse-spans,linearize-activations,repair-least-squares,"
        "fold-batch-norm,fuse-linear,cleanup"
    ),
    # What a candidate's latency depends on, without the repairs, which change no shape.
    "trial": (
        "prune-channels,collapse-spans{fit=false},linearize-activations{fit=false},fold-batch-norm,"
        "fuse-linear,cleanup"
    ),
    "simplify": "fold-batch-norm,fuse-linear,cleanup",
}
