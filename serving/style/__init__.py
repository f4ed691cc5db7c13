"""The logic behind `stylize`: parameters, colors, large pictures, videos. Knows nothing about Triton."""
