"""The front door of `reverie serve`: Envoy, and behind it a guard that reads every request before Triton does.

`configuration` says what Envoy does, `envoy` is its process, `guard` the process that looks into the requests.
"""
