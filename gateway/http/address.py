"""Where one instance is reached."""

from dataclasses import dataclass, field
from typing import Any

from gateway.http.api_server import ApiServer, unseal


@dataclass(frozen=True)
class Address:
    """One ready instance. `uid` is 32 hexadecimal digits. Behind an API server, host and port are that one's.

    `prefix` is the instance's path there, empty for one that is reached directly.
    """

    uid: str
    host: str
    port: int
    prefix: str = ""
    api_server: ApiServer | None = None
    # Made once per snapshot, not once per request: the uid as the journal stores it; the Host header, begun by the end
    # of the line before.
    key: bytes = field(init=False, repr=False, compare=False)
    host_line: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", bytes.fromhex(self.uid))
        object.__setattr__(self, "host_line", f"\r\nhost: {self.host}:{self.port}\r\n".encode())

    @classmethod
    def behind(cls, api_server: ApiServer, uid: str, prefix: str) -> "Address":
        return cls(uid, api_server.host, api_server.port, prefix, api_server)

    def to_json(self) -> list[object]:
        if self.api_server is not None:
            return [self.uid, self.prefix, self.api_server.sealed]
        return [self.uid, self.host, self.port]

    @classmethod
    def from_json(cls, item: list[Any], keys: tuple[str, ...]) -> "Address":
        uid, place, rest = item
        return cls(uid, place, rest) if isinstance(rest, int) else cls.behind(unseal(rest, keys), uid, place)
