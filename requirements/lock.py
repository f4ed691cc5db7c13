"""Resolve the hash-pinned requirement files from pyproject.toml, for Python 3.10 to 3.12 on Linux.

The files name packages, versions and hashes only; where packages come from is each machine's setting.
"""

import subprocess

FILES = {
    "runtime": [],
    "dev": ["--extra", "dev"],
    "bench": ["--extra", "bench"],
    # Both builds of ONNX Runtime provide the same module, so only one may be installed.
    "gpu": ["--extra", "gpu", "--no-emit-package", "onnxruntime"],
}
OPTIONS = ["--universal", "--python-version", "3.10", "--generate-hashes", "--no-header"]

if __name__ == "__main__":
    for name, extras in FILES.items():
        command = [
            "uv",
            "pip",
            "compile",
            "pyproject.toml",
            *OPTIONS,
            *extras,
            "--output-file",
            f"requirements/{name}.txt",
        ]
        subprocess.run([*command, "--quiet"], check=True)
