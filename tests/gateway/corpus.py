"""Malformed and smuggling requests, each with the status that it must get. None of them may reach an instance.

`0` stands for "no answer yet": the request is not whole, so the gateway waits for the rest of it.
"""

OK = b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\n\r\n"
HIDDEN = b"GET /main/chat/hidden HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /main/chat/x HTTP/1.1\r\nHost: a\r\n"

REFUSED: dict[str, tuple[bytes, int]] = {
    # Not HTTP at all
    "rubbish": (b"rubbish\r\n\r\n", 400),
    "a TLS greeting": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60), 400),
    "HTTP/0.9": (b"GET /main/chat/x\r\n\r\n", 400),
    "HTTP/1.2": (b"GET /main/chat/x HTTP/1.2\r\nHost: a\r\n\r\n", 400),
    "HTTP/2.0": (b"GET /main/chat/x HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "an unknown method": (b"FROBNICATE /main/chat/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a method in lower case": (b"get /main/chat/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "two spaces in the request line": (b"GET  /main/chat/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a space in the target": (b"GET /main/chat/x y HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n" + HIDDEN, 405),
    # Host
    "no Host": (b"GET /main/chat/x HTTP/1.1\r\n\r\n", 400),
    "two Hosts in HTTP/1.0": (b"GET /main/chat/x HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    "two Hosts": (b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "two equal Hosts": (b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    # Header lines
    "a space before the colon": (b"GET /main/chat/x HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "a space before the first header": (b"GET /main/chat/x HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "a header without a colon": (b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nbroken\r\n\r\n", 400),
    "an empty name": (b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", 400),
    "a folded header": (b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
    "a name in brackets": (b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nX(y): z\r\n\r\n", 400),
    "NUL in a value": (b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
    "CR in a value": (b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400),
    "a bare LF between headers": (b"GET /main/chat/x HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
    "lines that end in LF": (b"GET /main/chat/x HTTP/1.1\nHost: a\n\n", 400),
    "lines that end in CR": (b"GET /main/chat/x HTTP/1.1\rHost: a\r\r", 400),
    "101 headers": (b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
    "a head of 70 KB": (b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431),
    "a head of 70 KB without end": (b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000, 431),
    "a target of 70 KB": (b"GET /main/chat/" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
    # Lengths
    "length and chunks": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN, 400),
    "chunks and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + HIDDEN, 400),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "two equal lengths": (POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    "a list of lengths": (POST + b"Content-Length: 3, 3\r\n\r\nabc", 400),
    "a negative length": (POST + b"Content-Length: -1\r\n\r\n", 400),
    "a length with a sign": (POST + b"Content-Length: +3\r\n\r\nabc", 400),
    "a length in hexadecimal": (POST + b"Content-Length: 0x3\r\n\r\nabc", 400),
    "an empty length": (POST + b"Content-Length:\r\n\r\n", 400),
    "a length of words": (POST + b"Content-Length: three\r\n\r\nabc", 400),
    "a length of 30 digits": (POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", 400),
    "a length of 2 PiB": (POST + b"Content-Length: 2251799813685248\r\n\r\n", 400),
    # Codings
    "chunks in HTTP/1.0": (b"POST /main/chat/x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "gzip": (POST + b"Transfer-Encoding: gzip\r\n\r\n" + HIDDEN, 501),
    "gzip, chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "chunked, identity": (POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    "chunked twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked, chunked": (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    "xchunked": (POST + b"Transfer-Encoding: xchunked\r\n\r\n" + HIDDEN, 501),
    "chunked behind a tab": (POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "quoted chunked": (POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', 501),
    # Expectations
    "an unknown expectation": (POST + b"Content-Length: 2\r\nExpect: 200-ok\r\n\r\nab", 417),
}  # fmt: skip

# Offers of another protocol that are not taken: all of it is HTTP/1.1 and answered as such.
IGNORED_OFFERS = {
    "h2c": b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\n\r\n",
    "h2c with a body": POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\nContent-Length: 2\r\n\r\nab",
    "h2c with chunks": POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "TLS": b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: TLS/1.0, HTTP/2.0\r\n\r\n",
    "two offers": b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: TLS/1.0\r\n\r\n",
    "websocket by POST": POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
    "websocket with a body": b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc",
    "websocket with chunks": b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an offer that Connection doesn't name": b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
    "Connection without an offer": b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\r\n",
    "an empty offer": b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade:\r\n\r\n",
}  # fmt: skip

# The head is sound, so the request may be on its way when its body turns out not to be; it must not be taken for whole.
TORN: dict[str, bytes] = {
    "a chunk size that is none": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "a negative chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
    "0x in a chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
    "a chunk longer than its size": POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n",
    "a chunk size that overflows": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\nabc\r\n0\r\n\r\n",
    "an empty chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n",
    "LF behind a chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
    "LF behind a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n",
    "a space in a chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\n3 3\r\nabc\r\n0\r\n\r\n",
    "trailers of 70 KB": POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    "a trailer without a colon": POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nbroken\r\n\r\n",
}
