"""Ask the package index which locked versions have known vulnerabilities (pip-audit); JSON on the last line.

Exit status 1 if one has. An index that does not know (a mirror often serves files only) is no failure: what could not be
audited is counted, and said.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FILES = ("runtime", "gpu", "dev", "eval", "bench", "fuzz")
FOLDER = Path(__file__).parent
_SECONDS = 300


def main() -> None:
    """Audit every lock file."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name in FILES:
        print(f"auditing {name}.txt", file=sys.stderr)
        for package in audited(FOLDER / f"{name}.txt"):
            found[package["name"], package.get("version", package.get("skip_reason", ""))] = package
    known = [package for package in found.values() if "version" in package]
    vulnerable = {f"{p['name']} {p['version']}": ids(p) for p in known if p["vulns"]}
    for package, names in vulnerable.items():
        print(f"{package}: {', '.join(names)}", file=sys.stderr)
    if len(known) < len(found):
        print(f"{len(found) - len(known)} packages were not audited: this index does not know them", file=sys.stderr)
    print(json.dumps({"audited": len(known), "not_audited": len(found) - len(known), "vulnerable": vulnerable}))
    sys.exit(1 if vulnerable else 0)


def audited(path: Path) -> list[dict[str, Any]]:
    """What pip-audit says of each package of a lock file."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(path), "--require-hashes", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    if not run.stdout:
        raise SystemExit(f"pip-audit failed on {path.name}: {run.stderr.strip()}")
    return json.loads(run.stdout)["dependencies"]


def ids(package: dict[str, Any]) -> list[str]:
    """The advisories of a package, with the versions that mend them."""
    return [f"{v['id']} (mended in {', '.join(v['fix_versions']) or 'none'})" for v in package["vulns"]]


if __name__ == "__main__":
    main()
