"""TensorRT and TensorRT for RTX: one exporter for both Python modules."""
