"""Images by gradient, in TensorFlow: feature extractors, losses, DeepDream and Gatys' style transfer.

Usable from a notebook; knows nothing about Triton, ONNX or a service's files.
"""
