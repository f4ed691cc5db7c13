"""The logic behind `stylize`: parameters, colours, large pictures, videos. Knows nothing about Triton."""
