"""Training: data, Keras models and the runs that produce what `export` publishes.

Models and losses use `keras.ops`, so a run also trains where only another Keras backend has a GPU
(`KERAS_BACKEND=jax`). Nothing here knows ONNX or Triton.
"""
