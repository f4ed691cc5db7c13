"""A typed client for a Reverie server, over gRPC (Open Inference Protocol v2).

Example:
    >>> with Client("127.0.0.1:8001") as client:            # doctest: +SKIP
    ...     picture = client.stylize(Path("photo.jpg").read_bytes())
    ...     for piece in client.generate("This movie", temperature=0.7):
    ...         print(piece.text, end="", flush=True)
"""

from reverie_client.client import Client, Inference, ModelStatus, PictureStep, ReverieError, Stream, TextPiece

__all__ = ["Client", "Inference", "ModelStatus", "PictureStep", "ReverieError", "Stream", "TextPiece"]
