"""Export a network as ONNX or TorchScript, and compare the file with the network before it is kept."""
