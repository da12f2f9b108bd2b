"""What has come of a request's body and isn't with the instance yet, and whose memory it takes."""

from gateway.bodies import text_size
from gateway.errors import GatewayError
from gateway.http.bounds import UNCOUNTED_BODY, Bodies, Holders

MAX_BUFFERED_BODY = 32 << 20


class HeldBody:
    """`size` of all that has come, in bytes. Bodies that are held whole take memory from others: within bounds, for each and
    in all, from the size on at which that is worth counting."""

    __slots__ = ("_bodies", "_counted", "_holders", "_is_kept", "beside", "pieces", "size", "text")

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._holders: Holders = {}
        self._counted = 0
        # Another one has it, for longer than its request may last.
        self._is_kept = False
        self.pieces: list[bytes] = []
        self.size = 0
        # Of what is held with it, in bytes; and how much of it is text, where that has been looked at.
        self.beside = 0
        self.text: int | None = None

    @property
    def is_counted(self) -> bool:
        return self._counted > 0

    @property
    def is_large(self) -> bool:
        """Whether it has to be counted, for `holders`."""
        return self.size + self.beside > UNCOUNTED_BODY

    def text_size(self, content_type: bytes) -> int:
        """In bytes: as far as its length tells something of tokens."""
        return self.text if self.text is not None else text_size.of_kind(content_type, self.size)

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self.pieces.append(data)

    def whole(self) -> bytes:
        pieces = self.pieces
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def replace(self, body: bytes) -> None:
        """Another one in its place, of another size."""
        self.pieces, self.size = [body], len(body)

    def count(self, holders: Holders) -> None:
        """Raises GatewayError where it is too large, or more than may be held."""
        if self.size > MAX_BUFFERED_BODY:
            raise too_large()
        self._holders = self._holders or holders
        self._bodies.take(self._holders, self.size + self.beside - self._counted)
        self._counted = self.size + self.beside

    def let_go(self) -> None:
        """Nothing of it is needed any more."""
        self.pieces = []
        if self._counted and not self._is_kept:
            self._bodies.give_back(self._holders, self._counted)
            self._counted = 0

    def keep(self) -> None:
        """Its memory is taken until `keep_no_more`, whatever becomes of its request."""
        self._is_kept = True

    def keep_no_more(self) -> None:
        self._is_kept = False
        if not self.pieces:
            self.let_go()


def too_large() -> GatewayError:
    limit = MAX_BUFFERED_BODY >> 20
    return GatewayError(
        413,
        "body_too_large",
        f"A body on /v1 has at most {limit} MiB. Larger ones can be streamed to the deployment's own address.",
    )
