#!/usr/bin/env bash
# Prints the Python to use: the first candidate that is 3.10 to 3.12 and has the shared libpython that
# Triton's Python backend loads. PYTHON=... names the only candidate.
set -u

probe='
import os, sys, sysconfig
name = "libpython%d.%d" % sys.version_info[:2]
folders = [sysconfig.get_config_var("LIBDIR") or "", "/usr/lib/%s" % (sysconfig.get_config_var("MULTIARCH") or ""), "/usr/lib64", "/usr/local/lib", "/usr/lib"]
if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    sys.exit("Python %d.%d is not supported" % sys.version_info[:2])
if not any(os.path.exists(os.path.join(f, name + ".so.1.0")) for f in folders):
    sys.exit("%s has no shared library; on Debian or Ubuntu install the package %s" % (sys.executable, name))
'

candidates=(python3 python3.12 python3.11 python3.10 python)
[ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
reasons=""
for candidate in "${candidates[@]}"; do
  path=$(command -v "$candidate") || continue
  if reason=$("$path" -c "$probe" 2>&1); then
    echo "$path"
    exit 0
  fi
  reasons+="  $candidate: $(tail -n 1 <<<"$reason")"$'\n'
done
{
  echo "No usable Python was found: Reverie needs Python 3.10, 3.11 or 3.12 with its shared library."
  printf '%s' "$reasons"
  echo "Install one (on Debian or Ubuntu: python3 python3-venv libpython3.x), or say which: make PYTHON=/path/to/python3.11"
} >&2
exit 1
