"""What training and serving share about text: the vocabulary and the sampling of the next token.

Knows nothing about Keras, ONNX or Triton; works on strings, token ids and NumPy arrays.
"""
