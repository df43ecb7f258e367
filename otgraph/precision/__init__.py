"""Precision lives in the ONNX file: float16 by conversion, int8 by Q/DQ nodes. Torch-free."""
