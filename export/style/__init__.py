"""The style network as ONNX: built by hand from the trained weights, with the photograph resized inside the graph."""
