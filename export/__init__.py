"""Finished training runs to ONNX, and the proof that the graph computes what Keras did; publishing is `registry`."""
