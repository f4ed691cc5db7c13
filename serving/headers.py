"""Names of the headers that Reverie's servers and clients know."""

CONTROL = "reverie-control"
"""The key for loading and unloading models."""
API_KEY = "reverie-api-key"
CLIENT = "reverie-client"
"""Who calls, for the limits of one client; Triton passes it on to models as a parameter."""
GRPC_RESTRICTED_PREFIX = "triton-grpc-protocol-"
"""What Triton wants before the name of a key's header over gRPC."""
