"""The embedded Triton server and its stand-in ONNX Runtime backend.

`server.py` starts and stops it, `supervisor.py` keeps it serving. What they use: `address.py` (where it listens),
`installation.py` (what of it is installed), `folder.py` (the files that it reads while it runs), `memory.py` (bounds on its
memory), `processes.py` (processes of this machine), `arguments.py` (keys off the command line), `errors.py`. Of its answers:
`metrics.py`. `backends/` has the stand-in backend, `graph_inputs.py` what its ONNX graphs take.
"""
