"""Reaching instances from outside their cluster: through the API server's proxy, as /api/v1/namespaces/…/pods/…/proxy/….

The API server sees a request as its own before it hands it on. So nothing that means anything to it may come from a
client: neither credentials, nor headers by which it would take the gateway for somebody else, nor a path that leads
out of the proxied pod.
"""

import base64
import os
import ssl
import tempfile
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import orjson

from common.encryption import Cipher, SecretUnreadableError
from gateway.errors import GatewayError, bad_request
from runtimes.kubernetes import kubeconfig

_ITS_OWN = (b"authorization:", b"impersonate-", b"x-remote-")
_SUBPROTOCOLS, _BEARER = b"sec-websocket-protocol:", b"base64url.bearer."
# An error of the API server's own is an object of the kind Status, and small; in which form depends on what was accepted.
_LARGEST_STATUS = 8192
_FORMS = (b"application/json", b"application/yaml", b"application/vnd.kubernetes.protobuf", b"text/plain")


@dataclass(frozen=True)
class ApiServer:
    """`sealed` is the kubeconfig as the control plane stores it, encrypted: that is all of it that lies on disk."""

    sealed: str
    host: str = field(compare=False, repr=False)
    port: int = field(compare=False, repr=False)
    path: bytes = field(compare=False, repr=False)
    tls: ssl.SSLContext = field(compare=False, repr=False)
    tls_name: str = field(compare=False, repr=False)
    # The line that says who the gateway is, empty where a certificate does.
    authorization: bytes = field(compare=False, repr=False)


class ApiServerUnusableError(Exception):
    """Why a stored kubeconfig leads nowhere."""


@lru_cache(maxsize=256)
def unseal(sealed: str, keys: tuple[str, ...]) -> ApiServer:
    """Raises ApiServerUnusableError."""
    try:
        config = kubeconfig.read(Cipher(keys).decrypt(sealed)["kubeconfig"])
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        server = urlsplit(cluster["server"])
        port, tls = server.port or 443, _tls(cluster, user)
    except (SecretUnreadableError, ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise ApiServerUnusableError(f"{error} Enter the kubeconfig again.") from None
    return ApiServer(
        sealed,
        host=server.hostname or "",
        port=port,
        path=server.path.rstrip("/").encode(),
        tls=tls,
        tls_name=cluster.get("tls-server-name") or server.hostname or "",
        authorization=_authorization(user),
    )


def _tls(cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
    authority = cluster.get("certificate-authority-data")
    context = ssl.create_default_context(cadata=base64.b64decode(authority).decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    if user.get("client-certificate-data") and user.get("client-key-data"):
        # OpenSSL takes it from files only; this one is readable by us alone and gone at once.
        descriptor, path = tempfile.mkstemp()
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(base64.b64decode(user["client-certificate-data"]) + b"\n")
                file.write(base64.b64decode(user["client-key-data"]))
            context.load_cert_chain(path)
        finally:
            os.unlink(path)
    return context


def _authorization(user: dict[str, Any]) -> bytes:
    if user.get("token"):
        return f"authorization: Bearer {user['token']}\r\n".encode()
    if user.get("username"):
        pair = f"{user['username']}:{user.get('password') or ''}".encode()
        return b"authorization: Basic " + base64.b64encode(pair) + b"\r\n"
    return b""


def pod_proxy_path(namespace: str, pod: str, port: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy"


def check_path(path: bytes) -> None:
    """Raise a 400 for a path that the API server might read as one outside the pod's own."""
    segments = unquote_to_bytes(path.partition(b"?")[0]).replace(b"\\", b"/").split(b"/")
    if b".." in segments or b"." in segments:
        raise bad_request("The path may not hold “.” or “..”: instances of this cluster are reached through its API.")


def request_line(api_server: ApiServer, prefix: str, method: bytes, path: bytes, passed: bytes) -> bytes:
    """As framing.request_line, for an instance behind `api_server`; `prefix` is the pod's own path there."""
    lines = [_without_bearer(line) for line in passed.split(b"\r\n") if line and not line.lower().startswith(_ITS_OWN)]
    passed = b"\r\n".join([*lines, b""]) if lines else b""
    return b"%b %b%b%b HTTP/1.1\r\n%b%bx-request-id: " % (
        method, api_server.path, prefix.encode(), path, passed, api_server.authorization,
    )  # fmt: skip


def _without_bearer(line: bytes) -> bytes:
    """A websocket's list of protocols may carry a token for the API server, as any of its items."""
    if not line.lower().startswith(_SUBPROTOCOLS):
        return line
    name, _, value = line.partition(b":")
    kept = [item.strip() for item in value.split(b",") if not item.strip().lower().startswith(_BEARER)]
    return name + b": " + b", ".join(kept)


def may_be_refusal(status: int, content_type: bytes, length: int | None) -> bool:
    """Whether an answer may be the API server's own, so that its body must be read before it is handed on."""
    return (
        status >= 400 and content_type.lower().startswith(_FORMS) and length is not None and length <= _LARGEST_STATUS
    )


def refusal(status: int, body: bytes) -> GatewayError | None:
    """What the client is told when the API server did not reach the instance; None for the instance's own answer."""
    if not _is_status(body):
        return None
    if status in (401, 403):
        message = (
            "The cluster's API server does not let the gateway through. The cluster's page shows the missing right."
        )
        return GatewayError(502, "cluster_refused", message)
    message = "The cluster's API server could not reach the instance. Try again in a few seconds."
    return GatewayError(502, "instance_unreachable", message, 2)


def _is_status(body: bytes) -> bool:
    if body.startswith(b"k8s\0") or body.lower().startswith(b"error trying to reach service"):
        return True
    if body.lstrip().startswith(b"{"):
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            return False
        return value.get("kind") == "Status" and value.get("apiVersion") == "v1" and "message" in value
    lines = body.splitlines()
    return b"kind: Status" in lines and b"apiVersion: v1" in lines
