#!/bin/sh
# The command `reverie` of the environment that this file is in, whatever characters its path has.
exec "$(dirname "$(readlink -f "$0")")/python" -m reverie "$@"
