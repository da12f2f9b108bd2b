"""Where weights lie when they are neither in a hub nor in the image: in a volume claim, or in an S3-compatible store.

`pvc://acme.models/llama-3` is a folder of a claim that exists where instances run; `s3://bucket/llama-3?endpoint=https://
minio.example&region=eu` one of a store, fetched before the engine starts. Pure.
"""

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

# Where engines find them, as in KServe.
MOUNT = "/mnt/models"
CLAIM, BUCKET = "pvc", "s3"
_PATH = re.compile(r"[\w.@+=-]+(/[\w.@+=-]+)*")
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class SourceError(ValueError):
    """An address that can't be used; the message says how one is written."""


@dataclass(frozen=True)
class ClaimSource:
    """`path` inside the claim, without a slash at its beginning; empty for all of it."""

    claim: str
    path: str

    @property
    def mounted(self) -> str:
        return f"{MOUNT}/{self.path}".rstrip("/")


@dataclass(frozen=True)
class BucketSource:
    """`path` of a folder, or of one file. Without an `endpoint` it is AWS."""

    bucket: str
    path: str
    endpoint: str = ""
    region: str = ""

    @property
    def is_file(self) -> bool:
        return self.path.endswith(".gguf")

    @property
    def mounted(self) -> str:
        return f"{MOUNT}/{self.path.rpartition('/')[2]}" if self.is_file else MOUNT

    @property
    def folder(self) -> str:
        """A name for what is fetched from here, where several models share a claim."""
        return hashlib.sha256(f"{self.endpoint} {self.bucket} {self.path}".encode()).hexdigest()[:16]


def read(uri: str) -> ClaimSource | BucketSource | None:
    """What `uri` names; None for an address of another kind. Raises SourceError."""
    scheme = uri.partition("://")[0]
    if scheme not in (CLAIM, BUCKET):
        return None
    try:
        parts = urlsplit(uri)
        asked = parse_qs(parts.query, strict_parsing=bool(parts.query), max_num_fields=5)
    except ValueError:
        raise SourceError(f"“{uri}” is no address.") from None
    path = parts.path.strip("/")
    if path and (not _PATH.fullmatch(path) or ".." in path.split("/") or "." in path.split("/")):
        raise SourceError("A path has letters, digits, “.”, “_”, “-”, “@”, “+” and “=” between its slashes.")
    if scheme == CLAIM:
        if not parts.netloc or parts.query:
            raise SourceError("A volume claim is written pvc://claim/path/in/it.")
        return ClaimSource(parts.netloc, path)
    return _bucket(parts.netloc, path, asked)


def _bucket(name: str, path: str, asked: dict[str, list[str]]) -> BucketSource:
    if not _BUCKET_NAME.fullmatch(name) or not path:
        raise SourceError(
            "A store is written s3://bucket/path, for others than AWS with ?endpoint=https://host behind it."
        )
    unknown = set(asked) - {"endpoint", "region"}
    if unknown:
        raise SourceError(f"“{min(unknown)}” is no option of a store; there are endpoint and region.")
    endpoint, region = asked.get("endpoint", [""])[-1], asked.get("region", [""])[-1]
    if endpoint and not re.fullmatch(r"https?://[\w.-]+(:\d{1,5})?", endpoint):
        raise SourceError("endpoint is an address as https://minio.example or http://minio.storage:9000.")
    if not re.fullmatch(r"[a-z0-9-]{0,40}", region):
        raise SourceError("region has small letters, digits and “-”, as eu-central-1.")
    return BucketSource(name, path, endpoint, region)


def same_place(one: str, other: str) -> bool:
    """Whether a key for the one may be sent to the other: the same store, or both none."""
    try:
        first, second = read(one), read(other)
    except SourceError:
        return False
    if isinstance(first, BucketSource) and isinstance(second, BucketSource):
        return first.endpoint == second.endpoint
    return not isinstance(first, BucketSource) and not isinstance(second, BucketSource)
