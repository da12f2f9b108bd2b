# Sourced by the other scripts: where things are, and how they speak.
K=${SLIPWAY_TEST_CLUSTER_DIR:-/var/tmp/slipway-test-cluster} # keep it short: unix socket paths
BIN=$K/bin RUN=$K/run VAR=$K/var ETC=$K/etc LOG=$K/log PKI=$K/etc/pki IMG=$K/img
NODE=node1
NODEIP=10.244.0.1 PODCIDR=10.244.0.0/24 SVCCIDR=10.96.0.0/16 BRIDGE=cni0
API=https://127.0.0.1:6443
CTRSOCK=$RUN/containerd.sock
PAUSE=k8s.local/pause:1
KUBERNETES_VERSION=v1.20.2
PROGRAMS="kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy"
say() { printf '[%s] %s\n' "$(date +%T)" "$*" >&2; }
die() { say "FATAL $*"; exit 1; }
# The machine's own Debian sources with source packages switched on, beside its configuration, not in it.
apt_options() { echo "-o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts=$K/srcparts -o Dir::State::Lists=$K/lists"; }
install_packages() { # install_packages NAME PACKAGE...: none of them may start a service
  local name=$1; shift
  local policy=/usr/sbin/policy-rc.d made=
  [ -x $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy && made=1; }
  # shellcheck disable=SC2046
  DEBIAN_FRONTEND=noninteractive apt-get $(apt_options) install -y -q --no-install-recommends "$@" >"$LOG/apt-$name.log" 2>&1
  local status=$?
  [ -n "$made" ] && rm -f $policy
  [ $status = 0 ] || die "apt-get install $*, see $LOG/apt-$name.log"
}
mkdir -p "$LOG"
