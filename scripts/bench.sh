#!/usr/bin/env bash
# Installs the peers that the benchmarks measure against and runs them: all, or those named.
set -euo pipefail
cd "$(dirname "$0")/.."
for program in nginx wrk; do
  command -v "$program" >/dev/null || [ -x "/usr/sbin/$program" ] && continue
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "The benchmarks need $program (Debian: sudo apt-get install nginx-light wrk)." >&2
    exit 1
  fi
  echo "Installing nginx and wrk …"
  apt-get update -qq && apt-get install -y -qq --no-install-recommends nginx-light wrk >/dev/null
done
exec .venv/bin/python -m benchmarks "$@"
