#!/bin/bash
# Gets the cluster's programs and images, once: from SLIPWAY_TEST_CLUSTER_BINARIES (a folder, or a .tar.zst of one), or
# built from Debian's own `kubernetes` source package with Debian's Go, which takes about six minutes on two cores.
set -uo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/common.sh"

prepare_apt() {
  mkdir -p "$K/srcparts" "$K/lists/partial"
  # deb822 files are read only from a SourceParts folder, with the suffix .sources.
  sed 's/^Types:.*/Types: deb deb-src/' /etc/apt/sources.list.d/debian.sources >"$K/srcparts/debian.sources" || die "no /etc/apt/sources.list.d/debian.sources"
  # shellcheck disable=SC2046
  apt-get $(apt_options) -q update >"$LOG/apt-update.log" 2>&1 || die "apt-get update, see $LOG/apt-update.log"
}

have_programs() {
  local program
  for program in $PROGRAMS; do [ -x "$BIN/$program" ] || return 1; done
}

copy_binaries() {
  local from=$1
  if [ -d "$from" ]; then
    cp "$from"/kube* "$BIN/" || die "no programs in $from"
  else
    install_packages unpack zstd
    zstd -q -d --long=27 -c "$from" | tar -x -C "$BIN" || die "unpack $from"
  fi
}

go_environment() {
  export GOPATH=$K/gopath GOCACHE=$K/gocache GO111MODULE=off GOFLAGS='' CGO_ENABLED=0
  local package
  LD="-s -w" # in GOPATH mode the linker's symbols carry the vendor/ path
  for package in k8s.io/kubernetes/vendor/k8s.io/component-base/version k8s.io/kubernetes/vendor/k8s.io/client-go/pkg/version; do
    LD="$LD -X $package.gitVersion=$KUBERNETES_VERSION -X $package.gitMajor=1 -X $package.gitMinor=20 -X $package.gitTreeState=clean"
  done
}

generate_openapi() { # a file that the source package leaves out
  [ -s pkg/generated/openapi/zz_generated.openapi.go ] && return
  go build -o "$K/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen || die openapi-gen
  local inputs
  inputs=$(find -L cmd pkg plugin vendor/k8s.io -type f -name '*.go' -not -path '*/testdata/*' -print0 |
    xargs -0 grep -lE '^// *\+k8s:openapi-gen=' | xargs -n1 dirname |
    grep -vE '^vendor/k8s.io/(code-generator|sample-apiserver)' | LC_ALL=C sort -u | sed 's#^#k8s.io/kubernetes/#' | paste -sd,)
  "$K/openapi-gen" --v 0 --logtostderr -i "$inputs" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
    -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$LOG/openapi-violations" || die "openapi generation"
}

build_from_source() {
  local source=$K/gopath/src/k8s.io/kubernetes program
  say "building Kubernetes from Debian's source package; this happens once"
  mkdir -p "$K/gopath/src/k8s.io" "$K/dl"
  install_packages build golang-go dpkg-dev
  if [ ! -d "$source" ]; then
    # shellcheck disable=SC2046
    (cd "$K/dl" && apt-get $(apt_options) -q source --download-only kubernetes) >"$LOG/apt-source.log" 2>&1 || die "apt-get source, see $LOG/apt-source.log"
    dpkg-source --no-check -x "$K"/dl/kubernetes_*.dsc "$source" >"$LOG/unpack.log" 2>&1 || die "unpack, see $LOG/unpack.log"
  fi
  go_environment
  cd "$source" || die "no $source"
  generate_openapi
  for program in $PROGRAMS; do
    go build -trimpath -tags "providerless dockerless" -ldflags "$LD" -o "$BIN/" "./cmd/$program" >"$LOG/build-$program.log" 2>&1 ||
      die "build of $program, see $LOG/build-$program.log"
    say "built $program"
  done
  rm -rf "$K/gocache" "$K/gopath" "$K/dl"
}

mkdir -p "$BIN" "$IMG"
if ! have_programs || [ ! -e "$K/.runtime" ]; then
  prepare_apt
  install_packages runtime etcd-server containerd runc containernetworking-plugins conntrack iptables ipset ethtool socat openssl iproute2
  command -v kubectl >/dev/null || install_packages kubectl kubernetes-client
  touch "$K/.runtime"
fi
if ! have_programs; then
  # In a shell of its own: it works in the folder that it removes.
  if [ -n "${SLIPWAY_TEST_CLUSTER_BINARIES:-}" ]; then copy_binaries "$SLIPWAY_TEST_CLUSTER_BINARIES"; else (build_from_source) || exit 1; fi
fi
have_programs || die "the programs are not complete: $PROGRAMS"
exec bash "$HERE/images.sh"
