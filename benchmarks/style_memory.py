"""Resident MiB at its highest of a process that only loads a style graph and restyles one picture.

    python -m benchmarks.style_memory model.onnx 4096

Of noise, since the work does not depend on the picture. Linux only.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort


def main() -> None:
    """Print the figure."""
    file, size = sys.argv[1], int(sys.argv[2])
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    styles = session.get_inputs()[1].shape[1]
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    session.run(None, {"image": image, "style_weights": np.eye(styles, dtype=np.float32)[:1]})
    print(peak_mib())


def peak_mib() -> int:
    """`VmHWM` of this process."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) // 1024


if __name__ == "__main__":
    main()
