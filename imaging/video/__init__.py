"""Videos and folders of frames: read, restyled frame by frame through a function, written with their colors, times and sound."""
