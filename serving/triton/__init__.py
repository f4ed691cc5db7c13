"""The embedded Triton server and its stand-in ONNX Runtime backend."""
