"""Certificates for this machine, made by openssl: those that were committed would run out, and no package of ours makes any."""

from __future__ import annotations

import subprocess
from pathlib import Path


def signed(folder: Path, name: str, authority: tuple[Path, Path] | None = None) -> tuple[Path, Path]:
    """A certificate for this machine, signed by `authority` or by itself: its file and its key's."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate)]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    if authority:
        of_authority = ["-CA", str(authority[0]), "-CAkey", str(authority[1])]
        command += [*of_authority, "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
