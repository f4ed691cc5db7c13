#!/usr/bin/env bash
# Start Triton in the container. Model control (load, unload, shared memory, tracing, logging) needs the key in
# REVERIE_CONTROL_KEY, or in the file that REVERIE_CONTROL_KEY_FILE names; without one nothing starts.
# HTTP answers health only, unless REVERIE_HTTP=1 opens it for inference: a web page in a browser could call it too.
set -euo pipefail

if [ -n "${REVERIE_CONTROL_KEY_FILE:-}" ]; then
  REVERIE_CONTROL_KEY=$(<"$REVERIE_CONTROL_KEY_FILE")
fi
if [ -z "${REVERIE_CONTROL_KEY:-}" ]; then
  echo "REVERIE_CONTROL_KEY is empty: set a secret of your own; loading a model means running its code" >&2
  exit 2
fi
fits_a_header() {
  local LC_ALL=C printable='^[!-~]([ -~]*[!-~])?$'
  [[ $1 =~ $printable ]]
}
if ! fits_a_header "$REVERIE_CONTROL_KEY"; then
  echo "REVERIE_CONTROL_KEY is not what a header can carry; accepted: printable ASCII without spaces at the ends" >&2
  exit 2
fi
restricted="model-repository,shared-memory,trace,logging:reverie-control=$REVERIE_CONTROL_KEY"

closed=()
if [ "${REVERIE_HTTP:-}" != 1 ]; then
  secret=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')  # Nobody is told it.
  closed=("--http-restricted-api=inference,metadata,model-config,statistics:reverie-nobody=$secret")
fi
# Triton's models inherit its environment, and need no keys.
unset REVERIE_CONTROL_KEY REVERIE_CONTROL_KEY_FILE REVERIE_API_KEY

# Triton's own metrics stay inside; what is served has its models' too (docs/metrics.md). It is started again if it ends, and
# ends when this process has, which becomes Triton's.
PROMETHEUS_MULTIPROC_DIR=$(mktemp -d)
export PROMETHEUS_MULTIPROC_DIR
triton_metrics=8003
serve_metrics() {
  while kill -0 $$ 2>/dev/null; do
    python3 -m serving.telemetry.exporter --triton "http://127.0.0.1:$triton_metrics/metrics" --listen 0.0.0.0:8002 --beside $$ || sleep 1
  done
}
serve_metrics >/dev/null 2>&1 &

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
  "${closed[@]}" \
  --grpc-header-forward-pattern='reverie-client|reverie-timeout|x-request-id|traceparent' \
  --http-header-forward-pattern='reverie-client|reverie-timeout|x-request-id|traceparent' \
  --grpc-max-connection-age=600000 \
  --grpc-max-connection-age-grace=3600000 \
  --metrics-address=127.0.0.1 \
  --metrics-port="$triton_metrics" \
  --metrics-config=summary_latencies=true \
  --log-info=false \
  "$@"
