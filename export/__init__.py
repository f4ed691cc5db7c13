"""Export: finished training runs to ONNX, checked against Keras, published as the next version.

Knows trained models and the repository's layout; reaches a running server only through the client.
"""
