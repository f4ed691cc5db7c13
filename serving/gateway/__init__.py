"""HTTP that people know, in front of Triton's gRPC: OpenAI's shape for texts and edits, plain REST for the rest.

A process of its own (`python -m serving.gateway`), on a loopback port behind the door, which checks who calls; the gateway
passes a caller's key on and checks none. It knows nothing of models: it speaks to them as every client does, through
`reverie_client.AsyncClient`, and what a parameter may be is said by them.
"""
