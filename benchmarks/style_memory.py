"""What a large picture costs a process that only loads a style graph and restyles it: resident MiB at their highest,
and milliseconds (the least of some runs), as JSON.

    python -m benchmarks.style_memory model.onnx 4096

Of noise, since the work does not depend on the picture. Without memory patterns, as it is served: with them the second
picture of a shape takes half as much memory again (2,023 instead of 1,399 MiB at 4096), for 1 % of the time. Linux only.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import typer

from reverie.onnx_sessions import open_session

RUNS = 4


def main(file: Path, size: int) -> None:
    """Print what one picture of `size` times `size` pixels costs with the graph in `file`."""
    session = open_session(file, has_many_shapes=True)
    style = session.get_inputs()[1]
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        session.run(None, {"image": image, style.name: np.eye(1, style.shape[1], dtype=np.float32)})
        times.append(1000 * (time.perf_counter() - began))
    print(json.dumps({"peak_mib": peak_mib(), "ms": round(min(times), 1)}))


def peak_mib() -> int:
    """Return this process's largest resident memory so far in MiB (`VmHWM`)."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) // 1024


if __name__ == "__main__":
    typer.run(main)
