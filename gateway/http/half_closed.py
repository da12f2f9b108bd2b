"""A client that has closed its sending half: it may still read, or have gone altogether. Both look the same until something
is written, which whoever has gone answers with a reset."""

import asyncio
import socket

# When to look for the reset, in seconds after something was written; then at each tick.
LOOK_S = (0.005, 0.05)
# Every client reads over it before the answer (RFC 9110, 15.2), asked for or not.
PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"
# Within an answer in chunks: the first digit of the next one's size, which may begin with any number of zeros.
PROBE_IN_CHUNKS = b"0"
# TCP_CLOSE of tcp_states.h.
_CLOSED = 7


def has_gone(transport: asyncio.Transport) -> bool:
    """Whether a reset has come. Nothing is read any more from such a connection, so nobody else would notice it."""
    found: socket.socket = transport.get_extra_info("socket")
    state: bytes = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return state[0] == _CLOSED
