"""Takes in the clients' connections, and opens the exchange that each of their requests asks for."""

from gateway.core import Gateway
from gateway.exchange.exchange import Exchange
from gateway.http.client import ClientConnection
from gateway.http.framing import RequestHead
from gateway.queue.exchange import AsyncExchange


def accept(gateway: Gateway) -> ClientConnection:
    """The protocol of a new connection."""

    def open_exchange(client: ClientConnection, head: RequestHead) -> Exchange | AsyncExchange:
        return Exchange(gateway, client, head) if not head.is_async else AsyncExchange(gateway, client, head)

    return ClientConnection(gateway, open_exchange)
