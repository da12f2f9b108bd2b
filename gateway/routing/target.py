"""One deployment, as requests see it."""

from dataclasses import dataclass, fields

from gateway.errors import GatewayError
from gateway.http.address import Address

RUNNING = "running"


@dataclass(frozen=True)
class Target:
    """One deployment as requests see it. `version_id` of 0 means that it has no version at all."""

    deployment_id: int
    organization_id: int
    api_id: str
    endpoint: str
    name: str
    version_id: int
    status: str
    status_label: str
    cause_code: str
    cause_message: str
    created: int
    addresses: tuple[Address, ...]
    # Who may call it: everybody, or keys of the owner's organization and those that it is shared with.
    is_public: bool = True
    is_shared_with_all: bool = False
    shared_with: tuple[int, ...] = ()
    # (whose, requests a minute, tokens a minute), 0 for no limit; and whether cached input tokens leave them as they are.
    limits: tuple[tuple[str, int, int], ...] = ()
    limits_leave_cached_out: bool = False
    # Whether tokens cost something here or are limited: then each request counts some, whatever its path. But for those paths.
    counts_tokens: bool = False
    free_paths: tuple[str, ...] = ()
    # What the event of a stream holds that tells its tokens without being asked; empty where it has to be asked.
    streams_tell: str = ""
    # What its instances call the model; empty where that is not known.
    served_name: str = ""
    version_number: int = 0
    # Tokens of one request, 0 where only the model knows; what the model does; currency and prices of a million input, output and
    # perhaps cached input tokens.
    context_length: int = 0
    kinds: tuple[str, ...] = ()
    price: tuple[str, ...] = ()
    # Of other sites' pages that may call it and read its answers, as https://app.example.com; * for any.
    origins: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return values | {"addresses": [address.to_json() for address in self.addresses]}

    def is_free(self, path: bytes) -> bool:
        """Whether the engine generates nothing at `path`, whatever the method."""
        return path.decode("latin-1") in self.free_paths

    def unavailable(self) -> GatewayError:
        """The 503 that says why nothing can be answered now."""
        details = {"deployment": self.api_id, "status": self.status}
        if self.cause_code:
            details["cause"] = self.cause_code
        message = f"The deployment {self.api_id} is {self.status_label}"
        if self.status == RUNNING:
            message = f"The deployment {self.api_id} is Running but has no ready instance"
        message += f": {self.cause_message}" if self.cause_message else "."
        remedy = {
            "preparing": " Try again in a few seconds.",
            "running": " Try again in a few seconds.",
            "shutting_down": " Another version may be taking its place; try again in a few seconds.",
        }.get(self.status, " Start a version of it in the Operations Console.")
        code = "no_ready_instance" if self.status == RUNNING else f"deployment_{self.status}"
        retry = 5 if self.status in ("preparing", "running", "shutting_down") else None
        return GatewayError(503, code, message + remedy, retry, details)
