"""The logic behind Triton's Python models: a `model.py` in the repository only imports its class.

Each class is named `TritonPythonModel`, as Triton wants it.
"""
