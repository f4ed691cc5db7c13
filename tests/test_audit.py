"""The audit of the locks, with an index that knows something: a pip-audit of our own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).resolve().parents[1] / "requirements" / "audit.py"
SOUND = {"name": "sound", "version": "1.0", "vulns": []}
UNKNOWN = {"name": "unknown", "skip_reason": "Dependency not found"}
HOLED = {"name": "holed", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}


@pytest.mark.parametrize(
    ("answer", "status", "result"),
    [
        ([SOUND, UNKNOWN], 0, {"audited": 1, "not_audited": 1, "vulnerable": {}}),
        (
            [SOUND, HOLED],
            1,
            {"audited": 2, "not_audited": 0, "vulnerable": {"holed 2.0": ["PYSEC-1 (mended in 2.1)"]}},
        ),
    ],
)
def test_a_known_vulnerability_fails_the_audit_and_an_unknown_package_is_counted(tmp_path, answer, status, result):
    (tmp_path / "pip_audit.py").write_text(f"print({json.dumps({'dependencies': answer})!r})")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, AUDIT], capture_output=True, text=True, env=environment)
    assert run.returncode == status
    assert json.loads(run.stdout.splitlines()[-1]) == result
