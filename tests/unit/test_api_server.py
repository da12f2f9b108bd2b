"""What goes to an API server in a client's name, and what of its answers is its own. No cluster needed."""

import pytest
import yaml

from common.encryption import Cipher
from gateway.errors import GatewayError
from gateway.http import api_server

CONFIG = {
    "kind": "Config",
    "current-context": "a",
    "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    "clusters": [{"name": "a", "cluster": {"server": "https://api.example:6443/base/"}}],
    "users": [{"name": "a", "user": {"token": "t0k3n"}}],
}


def sealed(**user: str) -> str:
    config = CONFIG | {"users": [{"name": "a", "user": user}]} if user else CONFIG
    return Cipher(("secret",)).encrypt({"kubeconfig": yaml.safe_dump(config)})


def test_a_kubeconfig_becomes_an_address_with_credentials_and_tells_neither():
    server = api_server.unseal(sealed(), ("secret",))
    assert (server.host, server.port, server.path, server.tls_name) == ("api.example", 6443, b"/base", "api.example")
    assert server.authorization == b"authorization: Bearer t0k3n\r\n" and "t0k3n" not in repr(server)
    assert api_server.unseal(sealed(username="u", password="p"), ("secret",)).authorization.endswith(b"Basic dTpw\r\n")


def test_a_kubeconfig_that_cannot_be_used_says_so():
    with pytest.raises(api_server.ApiServerUnusableError, match="a key that Slipway no longer has"):
        api_server.unseal(sealed(), ("another",))
    broken = {"client-certificate-data": "bm9uZQ==", "client-key-data": "bm9uZQ=="}
    with pytest.raises(api_server.ApiServerUnusableError, match="Enter the kubeconfig again"):
        api_server.unseal(sealed(**broken), ("secret",))


def test_nothing_that_means_something_to_the_api_server_comes_from_a_client():
    passed = (
        b"Accept: */*\r\nAuthorization: Basic x\r\nIMPERSONATE-user: root\r\nImpersonate-Extra-a: b\r\nX-Remote-Group: r\r\n"
        b"Sec-WebSocket-Protocol: chat, base64url.bearer.authorization.k8s.io.dG9r, v2\r\nX-Mine: 1\r\n"
    )
    line = api_server.request_line(
        api_server.unseal(sealed(), ("secret",)), "/pods/p:1/proxy", b"GET", b"/x?y=1", passed
    )
    assert line == (
        b"GET /base/pods/p:1/proxy/x?y=1 HTTP/1.1\r\nAccept: */*\r\nSec-WebSocket-Protocol: chat, v2\r\nX-Mine: 1\r\n"
        b"authorization: Bearer t0k3n\r\nx-request-id: "
    )


@pytest.mark.parametrize("path", [b"/..", b"/a/../b", b"/%2e%2E/x", b"/a%2f..%2fb", b"/.", b"/a%5c..%5cb"])
def test_a_path_that_leads_out_of_the_pod_is_refused(path):
    with pytest.raises(GatewayError, match="may not hold"):
        api_server.check_path(path)


@pytest.mark.parametrize("path", [b"/", b"/a.b/..c/...", b"/x?up=../..", b"/%25e2"])
def test_other_paths_pass(path):
    api_server.check_path(path)


def test_only_the_api_servers_own_words_count_as_its_refusal():
    assert not api_server.may_be_refusal(200, b"application/json", 10)
    assert not api_server.may_be_refusal(500, b"application/json", None)
    assert not api_server.may_be_refusal(500, b"text/html", 10)
    assert api_server.may_be_refusal(403, b"application/json", 300)
    assert api_server.refusal(500, b'{"error":"of the instance"}') is None
    assert api_server.refusal(500, b'{"kind":"Status" and no JSON') is None
    said = b'{"kind":"Status","apiVersion":"v1","metadata":{},"message":"no","code":403}'
    for form in (
        said,
        b'{\n  "kind": "Status",\n  "apiVersion": "v1",\n  "message": "pretty, as for curl"\n}',
        b"apiVersion: v1\nkind: Status\nmessage: as for those who accept YAML\n",
        b"k8s\0\n\x0c\n\x02v1\x12\x06Status",
        b"Error trying to reach service: 'dial tcp 10.0.0.1:80: connect: connection refused'",
    ):
        codes = [api_server.refusal(status, form).code for status in (403, 401, 404, 503)]
        assert codes == ["cluster_refused", "cluster_refused", "instance_unreachable", "instance_unreachable"], form


@pytest.mark.parametrize(
    ("cluster", "user"),
    [
        ({"server": "https://api.example:644433"}, {"token": "t"}),
        ({"server": "https://api.example", "certificate-authority-data": 123}, {"token": "t"}),
        ({"server": "https://api.example", "certificate-authority-data": "bm9uZQ=="}, {"token": "t"}),
    ],
)
def test_whatever_is_wrong_with_a_kubeconfig_costs_that_cluster_alone(cluster, user):
    config = CONFIG | {"clusters": [{"name": "a", "cluster": cluster}], "users": [{"name": "a", "user": user}]}
    with pytest.raises(api_server.ApiServerUnusableError):
        api_server.unseal(Cipher(("secret",)).encrypt({"kubeconfig": yaml.safe_dump(config)}), ("secret",))
