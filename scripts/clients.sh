#!/usr/bin/env bash
# Installs the client libraries that tests/clients tries: Python's in an environment of their own, Node's beside the tests, and
# a JDK. What can't be had is left out; its tests say so.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-clients
if [ ! -e "$venv/.installed" ] || [ requirements-clients.txt -nt "$venv/.installed" ]; then
  echo "Installing client libraries …"
  [ -x "$venv/bin/pip" ] || bash scripts/make_environment.sh "$venv"
  # Not compiled ahead: most of it is never imported.
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements-clients.txt
  touch "$venv/.installed"
fi
if [ ! -e tests/clients/node_modules/.installed ] || [ tests/clients/package-lock.json -nt tests/clients/node_modules/.installed ]; then
  PATH="$PATH:$PWD/.venv/bin" npm ci --prefix tests/clients --no-audit --no-fund --loglevel=error
  touch tests/clients/node_modules/.installed
fi
if ! command -v javac >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "Installing a JDK …"
  apt-get update -qq && apt-get install -y -qq --no-install-recommends default-jdk-headless >/dev/null || true
fi
