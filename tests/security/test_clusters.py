"""What clusters and kubeconfigs say: bounded, and a secret in one is repeated nowhere."""

import socket
import threading
import zlib

import pytest

from runtimes.driver import ClusterUnreachableError, DriverError
from runtimes.kubernetes import client as kubernetes_client
from runtimes.kubernetes import kubeconfig
from runtimes.kubernetes.client import KubernetesClient

TOKEN = "planted-token-4711"
CONFIG = """
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: "https://k.example"}}]
users: [{name: u, user: {token: %s}}]
"""


def written(token: str) -> str:
    return CONFIG.replace("%s", token)


def config_for(port: int, token: str = TOKEN) -> dict:
    found = kubeconfig.read(written(token.encode("unicode_escape").decode()))
    found["clusters"][0]["cluster"]["server"] = f"http://127.0.0.1:{port}"
    return found


@pytest.fixture
def api_server():
    """`api_server(head, block)`: answers each request with a head and then `block` without end."""
    listeners = []

    def start(head: bytes, block: bytes = b"") -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        connection.recv(65536)
                        connection.sendall(head)
                        while block:
                            connection.sendall(block)
                    except OSError:
                        continue

        threading.Thread(target=serve, daemon=True).start()
        return listener.getsockname()[1]

    yield start
    for listener in listeners:
        listener.close()


def test_a_line_break_behind_a_token_is_no_part_of_it():
    for token in (f'"{TOKEN}\\n"', f'"  {TOKEN} "'):
        assert kubeconfig.read(written(token))["users"][0]["user"]["token"] == TOKEN
    block = "\n".join(line for line in CONFIG.splitlines() if not line.startswith("users"))
    block += f"\nusers:\n- name: u\n  user:\n    token: |\n      {TOKEN}\n"
    assert kubeconfig.read(block)["users"][0]["user"]["token"] == TOKEN


@pytest.mark.parametrize(
    "token", [f'"{TOKEN}\\r\\nX-Evil: 1"', f'"{TOKEN}\\0"', f'"{TOKEN}é"', f"[{TOKEN}]", f"{{a: {TOKEN}}}"]
)
def test_a_credential_that_cant_be_sent_is_refused_without_being_repeated(token):
    with pytest.raises(kubeconfig.KubeconfigError, match="“token” has a line break") as refused:
        kubeconfig.read(written(token))
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize("value", ["2024-13-45", "0b_", "9" * 5000, "!!int x", "!!bool x", "!!timestamp x", "4711"])
def test_a_value_that_yaml_would_make_something_else_of_is_a_text(value):
    text = written("abc").replace("current-context: c", f"current-context: c\nother: {value}")
    assert kubeconfig.read(text)["users"][0]["user"]["token"] == "abc"
    assert kubeconfig.read(written("4711"))["users"][0]["user"]["token"] == "4711"


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "{a: " * 50_000, "a: &x [1]\nb: *x", "x" * (kubeconfig.MOST_BYTES + 1), "- " * 100_000, "kind: Config\n" + "? " * 10_000],
)  # fmt: skip
def test_a_hostile_text_is_refused_for_people(text):
    with pytest.raises(kubeconfig.KubeconfigError):
        kubeconfig.read(text)


def test_a_client_whose_token_cant_be_sent_doesnt_tell_it(api_server):
    """As earlier builds stored them."""
    config = config_for(api_server(b""))
    config["users"][0]["user"]["token"] = f"{TOKEN}\n"
    with pytest.raises(ClusterUnreachableError) as refused:
        KubernetesClient(config).get("/version")
    chain = [refused.value, refused.value.__cause__]
    assert all(TOKEN not in repr(error) for error in chain) and refused.value.__suppress_context__


@pytest.mark.parametrize(
    ("head", "block"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"[" * 65536),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"[" * 65536 + b"\r\n"),
        (b"HTTP/1.1 500 No\r\n\r\n", b"x" * 65536),
        (b"HTTP/1.1 200 OK\r\nX-A: ", b"a" * 65536),
        (b"HTTP/1.1 200 OK\r\n", b"X-A: a\r\n" * 1000),
    ],
)
def test_an_answer_without_end_is_given_up(api_server, monkeypatch, head, block):
    monkeypatch.setattr(kubernetes_client, "_MOST_BYTES", 1 << 20)
    with pytest.raises(DriverError):
        KubernetesClient(config_for(api_server(head, block))).get("/version")


def test_an_answer_that_comes_too_slowly_is_given_up(api_server, monkeypatch):
    monkeypatch.setattr(kubernetes_client, "_MOST_S", 0.0)
    with pytest.raises(ClusterUnreachableError, match="slowly"):
        KubernetesClient(config_for(api_server(b"HTTP/1.1 200 OK\r\n\r\n", b" "))).get("/version")


def test_nothing_compressed_is_unpacked(api_server):
    bomb = zlib.compress(b"{" * (100 << 20))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    with pytest.raises(ClusterUnreachableError, match="no JSON"):
        KubernetesClient(config_for(api_server(head + bomb))).get("/version")
