#!/usr/bin/env bash
# Lint, format, types, layers, migrations, deployment settings. Runs all of them and fails if any fails.
set -uo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
status=0
step() {
  echo "== $1"
  shift
  "$@" || status=1
}
step "ruff" "$bin/ruff" check .
step "ruff format" "$bin/ruff" format --check .
step "mypy" "$bin/mypy"
step "import-linter" "$bin/lint-imports" --no-cache
step "migrations" "$bin/python" -W ignore manage.py makemigrations --check --dry-run
keys=$(mktemp)
trap 'rm -f "$keys"' EXIT
"$bin/python" -c 'import json, secrets; print(json.dumps({purpose: [secrets.token_urlsafe(64)] for purpose in ("sessions", "links", "identity", "webhooks", "encryption")}))' >"$keys"
SLIPWAY_KEYS_FILE=$keys SLIPWAY_PUBLIC_URL=https://slipway.example \
  SLIPWAY_TRUSTED_PROXIES=127.0.0.1 \
  step "check --deploy" "$bin/python" manage.py check --deploy --fail-level WARNING
exit "$status"
