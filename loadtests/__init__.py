"""Load tests: realistic requests over gRPC, held against objectives.

What is asked: `endpoints.py` (every endpoint, seeded sizes and prompts), `mix.py` (the same from a file),
`users.py` (locust users of them).
When: `closed_loop.py` (N users, each waits for its answer), `arrivals.py` and `open_loop.py` (a schedule that waits
for nobody), `replay.py` (a recorded load's). What came of it: `calls.py` (one record a request), `measure.py` (percentiles, rates), `generator.py`
(whether the generator itself was the bottleneck), `server_metrics.py` and `memory.py` (the server's side), `slo.py`
with `slo.toml` (what is promised), `report.py` with `plots.py` and `templates/` (one page). Commands: `run.py`, `capacity.py`,
`compare.py`, `soak.py`; `target.py` starts or finds the server. Importing `users.py`, `closed_loop.py` or a command
imports locust, which monkey-patches the process; the rest is plain.
"""
