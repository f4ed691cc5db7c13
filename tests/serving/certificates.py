"""Certificates for this machine, made by openssl: those that were committed would run out, and no package of ours makes any."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

Certificate = tuple[Path, Path]
"""A certificate's file and its key's."""


def issued(folder: Path, *names: str) -> dict[str, Certificate]:
    """An `authority`, certificates with these names that it has signed, and a `stranger` of its own.

    The tests are skipped where there is no openssl, which only makes the certificates.
    """
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificates and is not here")
    authority = signed(folder, "authority")
    by_authority = {name: signed(folder, name, authority) for name in names}
    return {"authority": authority, **by_authority, "stranger": signed(folder, "stranger")}


def signed(folder: Path, name: str, authority: Certificate | None = None) -> Certificate:
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
