"""What of Triton is installed on this machine: the wheel's folder, and the shared libraries that it needs."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path

from serving.triton.errors import ServerError


def wheel() -> Path:
    """Return the folder of the wheel that holds `bin`, `backends` and `python_backend_stubs`.

    Raises:
        ServerError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("pytriton")
    folder = Path(spec.origin).parent / "tritonserver" if spec and spec.origin else None
    if folder is None or not (folder / "bin" / "tritonserver").exists():
        raise ServerError(
            "the embedded Triton is missing; install it with 'make setup' (wheel nvidia-pytriton, Linux only)"
        )
    return folder


def libraries(wheel: Path) -> list[Path]:
    """Return the folders of the shared libraries that Triton needs.

    This interpreter's own libpython comes first: with another one, `import ssl` fails inside the stub.

    Raises:
        ServerError: this Python has no shared library.
    """
    own = Path(sysconfig.get_config_var("LIBDIR") or "")
    soname = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    found = next((d for d in (own, *_system_library_folders()) if (d / soname).exists()), None)
    if found is None:
        package = soname.split(".so")[0]
        raise ServerError(
            f"{soname} is missing: Triton's Python backend needs the shared library of this Python ({sys.executable}); "
            f"on Debian or Ubuntu install the package {package}, or use a Python built with --enable-shared"
        )
    return [found, wheel.parent.parent / "nvidia_pytriton.libs"]


def _system_library_folders() -> list[Path]:
    multiarch = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
    return [Path("/usr/lib") / multiarch, Path("/usr/lib64"), Path("/usr/local/lib"), Path("/usr/lib")]
