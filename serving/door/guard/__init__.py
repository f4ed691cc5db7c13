"""The guard: a process between Envoy and Triton that reads every gRPC message, and lets pass what does Triton no harm.

`messages` knows what is harmful, `proxy` carries calls over, `__main__` is the process. Nothing in it knows Envoy.
"""
