"""Measurements; the last line each prints is one JSON object."""
