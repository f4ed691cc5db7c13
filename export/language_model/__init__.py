"""Language models as ONNX decode graphs: built by hand from the trained weights, because a converter's graph has no cache."""
