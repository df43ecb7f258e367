"""ONNX operators as torch functions, one file per family; ``table`` says which function an operator means."""
