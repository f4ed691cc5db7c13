"""Picture and video files in and out, resizing, color, and what a picture says of how it was made; knows nothing of networks."""
