"""Asks a program whether it is ready, as Kubernetes would: 200 to 399 on its health path."""

import http.client
import socket

PROBE_TIMEOUT_S = 2.0


def probe(port: int, path: str) -> tuple[bool, bool, str]:
    """(is listening, is ready, the answer in words)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", path, headers={"User-Agent": "slipway-probe", "Connection": "close"})
        status = connection.getresponse().status
        return True, 200 <= status < 400, f"GET {path} answered {status}"
    except ConnectionRefusedError:
        return False, False, f"nothing listens on port {port}"
    except TimeoutError:
        return True, False, f"GET {path} did not answer within {PROBE_TIMEOUT_S:g} s"
    except (http.client.HTTPException, ValueError) as error:
        return True, False, f"GET {path} answered something that is not HTTP ({type(error).__name__})"
    except OSError as error:
        return True, False, f"GET {path} failed: {error.strerror or error}"
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def port_is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
