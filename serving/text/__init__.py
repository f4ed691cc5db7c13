"""The text engine: a decode graph with its caches, continuous batching, and text out of tokens. Knows nothing about Triton."""
