"""Load test: a realistic mix of users over gRPC for a while, held against objectives.

`users.py` says who asks for what, `slo.toml` what is promised, `slo.py` whether a promise was kept,
`measure.py` keeps every response time, and `run.py` (`python -m loadtests.run`) puts them together.
Importing `users.py` or `run.py` imports locust, which monkey-patches the process; the other two are plain.
"""
