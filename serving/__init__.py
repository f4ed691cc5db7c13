"""Serving: Triton's process, what its models do, and the commands that start and call it.

Never imports `training` or `export`. `triton/` starts the server, `models/` holds the five Python models, `python_backend/`
what they are made of, `text/` the text engine, `style/` what is done around the fast network.
"""
