"""Public data that a run uses where no path is given: fetched once into the Keras cache, and checked."""

from __future__ import annotations

from pathlib import Path

from reverie.errors import ToolkitError


class DownloadError(ToolkitError):
    """A file could not be fetched or is not the one expected; the message says what to do instead."""


def fetch(url: str, md5: str, instead: str, extract: bool = False) -> Path:
    """The file at `url`, or with `extract` the folder that its archive holds.

    Args:
        md5: of the file; another is refused.
        instead: what a person without access to `url` can give, for the message.

    Raises:
        DownloadError: see above.
    """
    import keras  # Not above: importing it takes seconds, and most runs are given their data.

    try:
        return Path(keras.utils.get_file(origin=url, file_hash=md5, hash_algorithm="md5", extract=extract))
    except Exception as error:
        raise DownloadError(f"{url} could not be fetched ({error}); {instead}") from error


def fetch_vgg19() -> None:
    """Make sure that VGG19's ImageNet weights are on this machine."""
    from synthesis import features

    if features.weights_path("vgg19") is None:
        try:
            features.download("vgg19")
        except Exception as error:
            raise DownloadError(
                f"VGG19's weights could not be fetched ({error}); name a folder that holds them with --weights-dir (WEIGHTS=)"
            ) from error
