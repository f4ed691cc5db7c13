"""Serving: Triton's process, what its models do, the client and its commands.

Never imports `training`. `triton/` starts the server, `models/` holds the logic of each Python model,
`reverie_client` calls them over gRPC.
"""
