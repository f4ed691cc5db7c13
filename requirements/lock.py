"""Resolve the hash-pinned requirement files from pyproject.toml, for Python 3.10 to 3.12 on Linux.

The files name packages, versions and hashes only; where packages come from is each machine's setting.
"""

import shutil
import subprocess
import sys

FILES = {
    "runtime": ["--extra", "all"],
    "dev": ["--extra", "all", "--extra", "dev"],
    "eval": ["--extra", "all", "--extra", "eval"],
    "fuzz": ["--extra", "all", "--extra", "fuzz"],
    "bench": ["--extra", "all", "--extra", "bench"],
    # Both builds of ONNX Runtime provide the same module, so only one may be installed.
    "gpu": ["--extra", "all", "--extra", "gpu", "--no-emit-package", "onnxruntime"],
    # The container's, which serves with NVIDIA's own Triton and trains nothing.
    "container": [
        *("--extra", "serve", "--extra", "gpu"),
        *("--no-emit-package", "onnxruntime", "--no-emit-package", "nvidia-pytriton"),
    ],
}
OPTIONS = [
    *("--universal", "--python-version", "3.10", "--generate-hashes", "--no-header"),
    *("--no-emit-package", "reverie-client"),  # It is in this repository.
]

if __name__ == "__main__":
    for name, extras in FILES.items():
        # What another file already pins is kept, so that going from one to another changes nothing else.
        if name != "runtime":
            shutil.copy("requirements/runtime.txt", f"requirements/{name}.txt")
        command = [
            sys.executable,
            "-m",
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
