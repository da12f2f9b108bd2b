#!/bin/bash
# A real Kubernetes cluster on this machine for the tests: one node, no Docker, no image registry.
#   cluster.sh up      get what is missing (see build.sh), start it, wait until the node is ready
#   cluster.sh down    stop everything it started; remove mounts, bridge, iptables chains, cgroups and state
#   cluster.sh status | kubeconfig (prints its path) | import TAR...
# Needs root on Debian 12. It lives in SLIPWAY_TEST_CLUSTER_DIR (default /var/tmp/slipway-test-cluster).
set -uo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/common.sh"

# ---------------------------------------------------------------- pki
pki(){
  [ -s "$PKI/done" ] && return
  mkdir -p "$PKI"; cd "$PKI" || die pki
  openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=kubernetes-ca -keyout ca.key -out ca.crt \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,digitalSignature,keyCertSign,cRLSign -addext subjectKeyIdentifier=hash 2>/dev/null || die ca
  openssl genrsa -out sa.key 2048 2>/dev/null; openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
  cert(){ # name subject [SAN]
    openssl req -newkey rsa:2048 -nodes -subj "$2" -keyout "$1.key" -out "$1.csr" 2>/dev/null || die "csr $1"
    { echo basicConstraints=critical,CA:FALSE; echo keyUsage=critical,digitalSignature,keyEncipherment
      echo extendedKeyUsage=clientAuth,serverAuth; echo subjectKeyIdentifier=hash; echo authorityKeyIdentifier=keyid
      [ -n "${3:-}" ] && echo "subjectAltName=$3"; } > "$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -sha256 -extfile "$1.ext" -out "$1.crt" 2>/dev/null || die "crt $1"
    rm -f "$1.csr" "$1.ext"
  }
  cert apiserver /CN=kube-apiserver "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:$NODEIP,IP:10.96.0.1"
  cert apiserver-kubelet /O=system:masters/CN=kube-apiserver-kubelet-client
  cert front-proxy /CN=front-proxy-client
  cert admin /O=system:masters/CN=admin
  cert kcm /CN=system:kube-controller-manager
  cert scheduler /CN=system:kube-scheduler
  cert proxy /CN=system:kube-proxy
  cert kubelet-client "/O=system:nodes/CN=system:node:$NODE"
  cert kubelet-server "/O=system:nodes/CN=system:node:$NODE" "DNS:$NODE,IP:$NODEIP,IP:127.0.0.1"
  local n
  for n in admin kcm scheduler proxy kubelet-client; do
    cat > "$ETC/$n.kubeconfig" <<EOF
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "$API", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: u, user: {client-certificate-data: $(base64 -w0 $n.crt), client-key-data: $(base64 -w0 $n.key)}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
EOF
    chmod 600 "$ETC/$n.kubeconfig"
  done
  date > done
}

# ---------------------------------------------------------------- process helpers
alive(){ [ -s "$RUN/$1.pid" ] && live "$(cat "$RUN/$1.pid")"; }
start(){ local n=$1; shift
  alive "$n" && { say "$n already runs"; return; }
  setsid nohup "$@" >"$LOG/$n.log" 2>&1 </dev/null &
  echo $! > "$RUN/$n.pid"; say "started $n pid $!"
}
live(){ [ -r "/proc/$1/stat" ] && ! grep -q '^[0-9]* (.*) Z' "/proc/$1/stat" 2>/dev/null; }
ours(){ [ -r "/proc/$1/cmdline" ] && tr '\0' ' ' < "/proc/$1/cmdline" | grep -qF -- "$2"; } # never kill a recycled pid
stop(){ # stop NAME PATTERN [NAME PATTERN]...: TERM all, wait up to 3 s, then KILL
  local a=("$@") i j p left
  for ((i=0; i<${#a[@]}; i+=2)); do p=$(cat "$RUN/${a[i]}.pid" 2>/dev/null) && ours "$p" "${a[i+1]}" && kill "$p" 2>/dev/null; done
  for j in $(seq 30); do left=0
    for ((i=0; i<${#a[@]}; i+=2)); do p=$(cat "$RUN/${a[i]}.pid" 2>/dev/null) && live "$p" && ours "$p" "${a[i+1]}" && left=1; done
    [ $left = 0 ] && break; sleep 0.1
  done
  for ((i=0; i<${#a[@]}; i+=2)); do p=$(cat "$RUN/${a[i]}.pid" 2>/dev/null) || continue
    live "$p" && ours "$p" "${a[i+1]}" && { kill -9 "$p" 2>/dev/null; say "KILLed ${a[i]}"; }
    rm -f "$RUN/${a[i]}.pid"; say "stopped ${a[i]}"; done
}
waitfor(){ local n=$1 t=$2 i; shift 2
  for i in $(seq $((t*5))); do "$@" >/dev/null 2>&1 && return 0; sleep 0.2; done
  die "timeout waiting for $n"; }
kc(){ kubectl --kubeconfig "$ETC/admin.kubeconfig" "$@"; }
CTR(){ ctr -a "$CTRSOCK" -n k8s.io "$@"; }
IMPORT(){ CTR images import --snapshotter "overlayfs" "$@"; }

# ---------------------------------------------------------------- up
up(){
  local T0=$SECONDS b image
  for b in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy; do [ -x "$BIN/$b" ] || die "no $BIN/$b, run build"; done
  mkdir -p "$RUN" "$VAR" "$ETC/cni" "$LOG" "$PKI"
  pki
  # node identity lives on the CNI bridge: stable, non-loopback, independent of the machine's own address
  ip link show $BRIDGE >/dev/null 2>&1 || ip link add $BRIDGE type bridge || die bridge
  ip addr replace $NODEIP/24 dev $BRIDGE; ip link set $BRIDGE up
  # kubelet and kube-proxy change these; remember for down
  [ -s "$VAR/sysctl.save" ] || sysctl -e net.ipv4.ip_forward net.ipv4.conf.all.route_localnet kernel.panic kernel.panic_on_oops vm.overcommit_memory vm.panic_on_oom net.bridge.bridge-nf-call-iptables > "$VAR/sysctl.save" 2>/dev/null
  sysctl -qe -w net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1 >/dev/null
  mount --make-rshared / 2>/dev/null
  awk '$5=="/run/netns"' /proc/self/mountinfo | grep -q . && touch "$VAR/netns-was-mounted"
  # What kube-proxy sends nowhere must not leave this machine: whoever answers there is not of the cluster.
  local stray=(OUTPUT -d $SVCCIDR -m comment --comment CNI-strays -j REJECT)
  iptables -C "${stray[@]}" 2>/dev/null || iptables -A "${stray[@]}" || die iptables
  cat > "$ETC/cni/10-bridge.conflist" <<EOF
{"cniVersion":"0.4.0","name":"pods","plugins":[
 {"type":"bridge","bridge":"$BRIDGE","isGateway":true,"isDefaultGateway":true,"ipMasq":true,"hairpinMode":true,"promiscMode":false,
  "ipam":{"type":"host-local","dataDir":"$VAR/cni","ranges":[[{"subnet":"$PODCIDR","rangeStart":"10.244.0.10"}]]}},
 {"type":"portmap","capabilities":{"portMappings":true},"snat":true}]}
EOF
  cat > "$ETC/containerd.toml" <<EOF
version = 2
root = "$VAR/containerd"
state = "$RUN/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs","io.containerd.snapshotter.v1.zfs","io.containerd.snapshotter.v1.aufs","io.containerd.snapshotter.v1.devmapper","io.containerd.internal.v1.opt","io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "$CTRSOCK"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$ETC/cni"
EOF
  cat > "$ETC/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $PKI/kubelet-server.crt
tlsPrivateKeyFile: $PKI/kubelet-server.key
address: 0.0.0.0
readOnlyPort: 0
cgroupDriver: cgroupfs
cgroupsPerQOS: true
enforceNodeAllocatable: [pods]
failSwapOn: false
clusterDomain: cluster.local
clusterDNS: [10.96.0.10]
resolvConf: /etc/resolv.conf
serializeImagePulls: false
maxPods: 60
# 1s: the first Ready status otherwise waits 10 s (kubelet default; also 10 s with --allocate-node-cidrs)
nodeStatusUpdateFrequency: 1s
nodeStatusReportFrequency: 1m
kubeAPIQPS: 50
kubeAPIBurst: 100
eventRecordQPS: 50
eventBurst: 100
volumePluginDir: $VAR/volumeplugins
# imported images cannot be pulled again: never let disk pressure or image GC touch them
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%}
EOF
  start containerd containerd --config "$ETC/containerd.toml"
  start etcd etcd --name e --data-dir "$VAR/etcd" --listen-client-urls http://127.0.0.1:23790 --advertise-client-urls http://127.0.0.1:23790 \
    --listen-peer-urls http://127.0.0.1:23800 --initial-advertise-peer-urls http://127.0.0.1:23800 --initial-cluster e=http://127.0.0.1:23800 --logger zap --log-outputs stderr
  waitfor etcd 30 curl -sf --noproxy '*' http://127.0.0.1:23790/health
  start kube-apiserver "$BIN/kube-apiserver" --etcd-servers=http://127.0.0.1:23790 --bind-address=0.0.0.0 --secure-port=6443 --insecure-port=0 --advertise-address=$NODEIP \
    --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" --client-ca-file="$PKI/ca.crt" \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true --anonymous-auth=true \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-account-key-file="$PKI/sa.pub" --service-account-signing-key-file="$PKI/sa.key" \
    --service-cluster-ip-range=$SVCCIDR \
    --kubelet-client-certificate="$PKI/apiserver-kubelet.crt" --kubelet-client-key="$PKI/apiserver-kubelet.key" --kubelet-certificate-authority="$PKI/ca.crt" \
    --kubelet-preferred-address-types=InternalIP,Hostname \
    --requestheader-client-ca-file="$PKI/ca.crt" --requestheader-allowed-names=front-proxy-client --requestheader-extra-headers-prefix=X-Remote-Extra- \
    --requestheader-group-headers=X-Remote-Group --requestheader-username-headers=X-Remote-User \
    --proxy-client-cert-file="$PKI/front-proxy.crt" --proxy-client-key-file="$PKI/front-proxy.key" \
    --feature-gates=TTLAfterFinished=true
  waitfor kube-apiserver 90 kc get --raw /readyz
  start kube-controller-manager "$BIN/kube-controller-manager" --kubeconfig="$ETC/kcm.kubeconfig" --authentication-kubeconfig="$ETC/kcm.kubeconfig" --authorization-kubeconfig="$ETC/kcm.kubeconfig" \
    --use-service-account-credentials=true --service-account-private-key-file="$PKI/sa.key" --root-ca-file="$PKI/ca.crt" \
    --cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key" --leader-elect=false --port=0 --bind-address=127.0.0.1 --feature-gates=TTLAfterFinished=true
  start kube-scheduler "$BIN/kube-scheduler" --kubeconfig="$ETC/scheduler.kubeconfig" --authentication-kubeconfig="$ETC/scheduler.kubeconfig" --authorization-kubeconfig="$ETC/scheduler.kubeconfig" \
    --leader-elect=false --port=0 --bind-address=127.0.0.1
  waitfor containerd 30 CTR version
  CTR images ls -q | grep -q "^$PAUSE\$" || IMPORT "$IMG/pause.tar" >/dev/null || die "import pause"
  for image in simulator llama-cpp rclone; do
    [ -s "$IMG/$image.tar" ] && { IMPORT "$IMG/$image.tar" >/dev/null || die "import $image"; }
  done
  start kubelet "$BIN/kubelet" --config="$ETC/kubelet.yaml" --kubeconfig="$ETC/kubelet-client.kubeconfig" --hostname-override=$NODE --node-ip=$NODEIP --root-dir="$VAR/kubelet" --cert-dir="$VAR/kubelet-pki" \
    --container-runtime=remote --container-runtime-endpoint="unix://$CTRSOCK" --image-service-endpoint="unix://$CTRSOCK" --containerd="$CTRSOCK" --housekeeping-interval=2s --pod-infra-container-image="$PAUSE"
  start kube-proxy "$BIN/kube-proxy" --kubeconfig="$ETC/proxy.kubeconfig" --hostname-override=$NODE --cluster-cidr=$PODCIDR --proxy-mode=iptables \
    --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0 --healthz-bind-address=127.0.0.1:10256 --metrics-bind-address=127.0.0.1:10249
  waitfor "node $NODE" 60 kc get node $NODE
  kc wait --for=condition=Ready node/$NODE --timeout=90s >&2 || die "node not ready"
  waitfor "default service account" 60 sh -c "kubectl --kubeconfig '$ETC/admin.kubeconfig' get sa default -o jsonpath='{.secrets[0].name}' | grep -q token"
  say "cluster up in $((SECONDS-T0))s; export KUBECONFIG=$ETC/admin.kubeconfig"
}
import() { local tar; for tar in "$@"; do IMPORT "$tar" >/dev/null || die "import $tar"; done; }

# ---------------------------------------------------------------- down
down(){
  local c m p i
  stop kubelet "$BIN/kubelet" kube-proxy "$BIN/kube-proxy" kube-scheduler "$BIN/kube-scheduler" kube-controller-manager "$BIN/kube-controller-manager"
  if CTR version >/dev/null 2>&1; then
    for c in $(CTR tasks ls -q); do CTR tasks kill -s KILL "$c" >/dev/null 2>&1; done
    for i in $(seq 50); do [ -z "$(CTR tasks ls 2>/dev/null | awk 'NR>1 && $3=="RUNNING"')" ] && break; sleep 0.1; done
    for c in $(CTR tasks ls -q); do CTR tasks delete -f "$c" >/dev/null 2>&1; done
    for c in $(CTR containers ls -q); do CTR containers delete "$c" >/dev/null 2>&1; done
  fi
  stop kube-apiserver "$BIN/kube-apiserver" containerd "$ETC/containerd.toml"; stop etcd "$VAR/etcd"
  # shims that outlived their task: only those of OUR containerd socket
  for p in /proc/[0-9]*; do
    tr '\0' ' ' < "$p/cmdline" 2>/dev/null | grep -q -- "containerd-shim.*$CTRSOCK" && { kill -9 "${p#/proc/}" 2>/dev/null; say "killed shim ${p#/proc/}"; }
  done
  awk -v k="$K/" 'index($5,k)==1{print $5}' /proc/self/mountinfo | sort -r | while read -r m; do umount -l "$m" 2>/dev/null; done
  for m in $(awk '$5 ~ "^/run/netns/cni-"{print $5}' /proc/self/mountinfo | sort -u); do umount -l "$m" 2>/dev/null; rm -f "$m"; done
  [ -e "$VAR/netns-was-mounted" ] || { rmdir /run/netns 2>/dev/null; umount /run/netns 2>/dev/null; }
  ip link del $BRIDGE 2>/dev/null
  for c in iptables ip6tables; do # drop only KUBE-*/CNI-* rules and chains
    command -v $c >/dev/null && $c-save 2>/dev/null | grep -vE 'KUBE-|CNI-|cni|CNI' | $c-restore 2>/dev/null
  done
  for p in /sys/fs/cgroup/*/kubepods; do [ -d "$p" ] && find "$p" -depth -type d -exec rmdir {} \; 2>/dev/null; done
  [ -s "$VAR/sysctl.save" ] && sysctl -q -p "$VAR/sysctl.save" >/dev/null 2>&1
  rm -rf "$VAR" "$RUN" /var/log/pods /var/log/containers /var/lib/cni/networks/pods
  say "down"
}
status(){ local n; for n in etcd kube-apiserver kube-controller-manager kube-scheduler containerd kubelet kube-proxy; do alive $n && echo "$n up pid $(cat "$RUN/$n.pid")" || echo "$n down"; done; }

case "${1:-}" in
  up) bash "$HERE/build.sh" || exit 1; up ;;
  down) down ;;
  status) status ;;
  kubeconfig) echo "$ETC/admin.kubeconfig" ;;
  import) shift; import "$@" ;;
  *) sed -n 2,6p "$0"; exit 2 ;;
esac
