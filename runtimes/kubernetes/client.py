"""The one file that imports the Kubernetes client: raw JSON in and out, errors in our own words.

Lists are decoded with orjson and never become the client's models: 2,000 pods take 0.3 s that way instead of 1.5 s.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

import orjson
import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from runtimes.driver import ClusterUnreachableError, DriverError, InvalidError

TIMEOUT_S = (3.0, 20.0)
PAGE = 500
# A page of 500 pods has about five MiB. More than this no API server answers.
_MOST_BYTES, _MOST_S = 64 << 20, 60.0
# Of a watch an event holds a whole pod.
_LONGEST_LINE = 4 << 20


class NotFoundError(DriverError):
    """There is no such object."""


class ConflictError(DriverError):
    """It exists already, or somebody changed it meanwhile."""


class ForbiddenError(DriverError):
    """The cluster's own words about what is not permitted."""


class KubernetesClient:
    """`kubeconfig` as `kubeconfig.read` gives it; None inside a cluster, for the pod's own service account.

    `is_verified`: whether the API server has to prove that it is the cluster's.
    """

    def __init__(self, kubeconfig: dict[str, Any] | None) -> None:
        settings = client.Configuration()
        try:
            if kubeconfig is None:
                config.load_incluster_config(client_configuration=settings)
            else:
                config.load_kube_config_from_dict(kubeconfig, client_configuration=settings)
        except (ConfigException, OSError, ValueError) as error:
            raise ClusterUnreachableError(f"The cluster's credentials can't be used: {error}") from None
        # Retrying is the reconciler's: a hidden retry of a POST could create twice and hides an outage.
        settings.retries = False
        self._api = client.ApiClient(settings)
        self._host: str = settings.host
        self.is_verified: bool = settings.verify_ssl

    @property
    def host(self) -> str:
        return self._host

    def get(self, path: str, **query: str) -> dict[str, Any]:
        return self._json("GET", path, query=query)

    def list(self, path: str, **query: str) -> list[dict[str, Any]]:
        """All items, in pages, so that one huge answer stalls nobody."""
        items: list[dict[str, Any]] = []
        query = {"limit": str(PAGE)} | query
        while True:
            answer = self._json("GET", path, query=query)
            items += answer.get("items") or []
            following = (answer.get("metadata") or {}).get("continue")
            if not following:
                return items
            query["continue"] = following

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._json("POST", path, body=body)

    def replace(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Refused with ConflictError when the object is not any more as `body`'s resourceVersion says."""
        return self._json("PUT", path, body=body)

    def patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """A JSON merge patch."""
        return self._json("PATCH", path, body=body, content_type="application/merge-patch+json")

    def delete(self, path: str, *, grace_s: int | None = None, last: bool = False) -> dict[str, Any]:
        """`grace_s` replaces a pod's own time to end; 0 takes it away without waiting for its program. `last`: the object stays
        until what belongs to it is gone."""
        policy = "Foreground" if last else "Background"
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        return self._json("DELETE", path, body=body)

    @contextmanager
    def stream(
        self, path: str, query: dict[str, str], *, read_timeout_s: float, longest: int = _LONGEST_LINE
    ) -> Iterator[Iterator[bytes]]:
        """The lines of an answer as they come, for logs and watches. The stream ends when the server ends it."""
        with _translated():
            answer = self._send("GET", path, query=query, timeout=(TIMEOUT_S[0], read_timeout_s))
            try:
                if answer.status >= 400:
                    raise ApiException(status=answer.status, reason=_message(_whole(answer)))
                yield _lines(answer, longest)
            finally:
                answer.close()
                answer.release_conn()

    def text(self, path: str, **query: str) -> str:
        return self._body("GET", path, query=query).decode(errors="replace")

    def page(self, path: str, *, limit: int, within_s: float) -> str:
        """What `path` answers, as it comes, up to `limit` bytes and for `within_s` seconds: a pod may send anything."""
        with _translated():
            deadline = time.monotonic() + within_s
            answer = self._send("GET", path, timeout=(within_s, within_s))
            try:
                data = bytearray()
                for part in _parts(answer):
                    data += part
                    if len(data) > limit or time.monotonic() > deadline:
                        raise DriverError("the page is too long, or comes too slowly")
                if answer.status >= 400:
                    raise ApiException(status=answer.status, reason=bytes(data[:500]).decode(errors="replace"))
            finally:
                answer.close()
                answer.release_conn()
            return data.decode(errors="replace")

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        data = self._body(method, path, **options)
        try:
            loaded = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise ClusterUnreachableError(f"The API server answered {path} with something that is no JSON.") from None
        return loaded if isinstance(loaded, dict) else {}

    def _body(self, method: str, path: str, **options: Any) -> bytes:
        with _translated():
            answer = self._send(method, path, **options)
            try:
                data = _whole(answer)
            finally:
                answer.release_conn()
            if answer.status >= 400:
                raise ApiException(status=answer.status, reason=_message(data))
            return data

    def _send(
        self,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        query: dict[str, str] | None = None,
        content_type: str = "application/json",
        timeout: tuple[float, float] = TIMEOUT_S,
    ) -> Any:
        headers = {"Accept": "application/json"}
        self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            return self._api.rest_client.pool_manager.request(
                method,
                f"{self._host}{path}{'?' + urlencode(query) if query else ''}",
                body=orjson.dumps(body) if body is not None else None,
                headers=headers,
                timeout=urllib3.Timeout(connect=timeout[0], read=timeout[1]),
                retries=False,
                preload_content=False,
            )
        except ValueError:
            # Of a header that can't be sent; the library's words repeat it, and it may be the token.
            raise ClusterUnreachableError(
                "The cluster's credentials can't be sent. Enter the kubeconfig again."
            ) from None


def _whole(answer: Any) -> bytes:
    """An answer as it was sent: nothing compressed is asked for, so nothing is unpacked either."""
    data = bytearray()
    deadline = time.monotonic() + _MOST_S
    for part in _parts(answer):
        data += part
        if len(data) > _MOST_BYTES or time.monotonic() > deadline:
            answer.close()
            raise ClusterUnreachableError("The API server's answer is too long, or comes too slowly.")
    return bytes(data)


def _parts(answer: Any) -> Iterator[bytes]:
    """What has come, as it comes: waiting for a part to be full would let a slow answer outlast any deadline."""
    if answer.chunked and answer.supports_chunked_reads():
        yield from answer.read_chunked(1 << 16, decode_content=False)
        return
    while part := answer.read1(1 << 16, decode_content=False):
        yield part


def path_of(*parts: str) -> str:
    """A path from parts that may hold anything."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except ApiException as error:
        kind = {403: ForbiddenError, 404: NotFoundError, 409: ConflictError}.get(error.status)
        message = str(error.reason)
        if kind is not None:
            raise kind(message) from None
        if error.status == 401:
            # Like a cluster that is away: nothing is known of it until there are credentials again.
            raise ClusterUnreachableError(f"The API server doesn't accept the credentials: {message}") from None
        if error.status in (400, 422):
            raise InvalidError(message) from None
        if error.status == 429 or error.status >= 500:
            raise ClusterUnreachableError(f"The API server answered {error.status}: {message}") from None
        raise DriverError(message) from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise ClusterUnreachableError(f"The API server can't be reached: {_plainly(error)}") from None


def _message(data: bytes) -> str:
    """The API server's own words."""
    try:
        status = orjson.loads(data)
    except orjson.JSONDecodeError:
        return data.decode(errors="replace")[:500]
    return str(status.get("message") or status)[:1000] if isinstance(status, dict) else str(status)[:500]


def _plainly(error: Exception) -> str:
    """urllib3's words without the names of its objects."""
    text = str(getattr(error, "reason", None) or error)
    return text.partition("): ")[2] or text


def _lines(answer: Any, longest: int) -> Iterator[bytes]:
    """Whole lines as they come. One that is too long is cut into several: a program may never end its line."""
    rest = bytearray()
    for part in answer.stream(1 << 16, decode_content=False):
        *lines, last = part.split(b"\n")
        for line in lines:
            rest += line
            yield bytes(rest)
            rest.clear()
        rest += last
        if len(rest) >= longest:
            yield bytes(rest)
            rest.clear()
    if rest:
        yield bytes(rest)
