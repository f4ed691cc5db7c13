"""Images by gradient, in TensorFlow: feature extractors, losses, DeepDream and Gatys' style transfer.

Usable from a notebook; knows nothing about Triton, ONNX or a service's files.
"""

import os

# SciPy's L-BFGS calls BLAS thousands of times on short vectors: its threads then cost more than they bring
# (13 instead of 50 ms of processor time an iteration, measured). TensorFlow and ONNX Runtime do not use it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
