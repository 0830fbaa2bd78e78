"""A student as ONNX or TorchScript, held against the network before the file counts."""
