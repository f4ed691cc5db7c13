"""`reverie demo`: the main job on the shipped models, written up as a gallery."""
