#!/usr/bin/env bash
# Start Triton in the container. Model control (load, unload, shared memory, tracing, logging) needs the key in
# REVERIE_CONTROL_KEY, or in the file that REVERIE_CONTROL_KEY_FILE names; without one nothing starts.
set -euo pipefail

if [ -n "${REVERIE_CONTROL_KEY_FILE:-}" ]; then
  REVERIE_CONTROL_KEY=$(<"$REVERIE_CONTROL_KEY_FILE")
fi
if [ -z "${REVERIE_CONTROL_KEY:-}" ]; then
  echo "REVERIE_CONTROL_KEY is empty: set a secret of your own; loading a model means running its code" >&2
  exit 2
fi
restricted="model-repository,shared-memory,trace,logging:reverie-control=$REVERIE_CONTROL_KEY"

# Connections end after ten minutes, so that calls reach servers that were added; streams on them have an hour to end.
exec tritonserver \
  --model-repository="${REVERIE_REPOSITORY:-/models}" \
  --model-config-name="${REVERIE_FLAVOUR-gpu}" \
  --model-control-mode=explicit \
  --load-model='*' \
  --disable-auto-complete-config \
  --strict-readiness=false \
  --exit-timeout-secs="${REVERIE_EXIT_SECONDS:-60}" \
  --grpc-restricted-protocol="$restricted" \
  --http-restricted-api="$restricted" \
  --grpc-header-forward-pattern=reverie-client \
  --http-header-forward-pattern=reverie-client \
  --grpc-max-connection-age=600000 \
  --grpc-max-connection-age-grace=3600000 \
  --metrics-config=summary_latencies=true \
  --log-info=false \
  "$@"
