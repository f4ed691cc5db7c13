"""Doors in front of a server that is there already."""

from __future__ import annotations

from serving.door.door import Door
from serving.door.folder import make_folder
from serving.door.guard.admission import Keys
from serving.door.settings import DoorSettings, PublicAddress
from serving.triton.address import ListenAddress
from serving.triton.server import TritonServer

CONTROL_KEY = "for publishers"


def door_before(server: TritonServer, said: list[str], **settings) -> Door:
    """A door, not yet open, in front of a server without keys; what it tells is added to `said`."""
    ports = ListenAddress.free()
    addresses = {"grpc": PublicAddress(port=ports.grpc_port), "http": PublicAddress(port=ports.http_port)}
    found = DoorSettings(make_folder(), triton_grpc_port=server.address.grpc_port, **{**addresses, **settings})
    control_key = server.security.made_up_control_key
    assert control_key is not None
    return Door(found, Keys("nobody asks for it", control_key, CONTROL_KEY), say=said.append)
