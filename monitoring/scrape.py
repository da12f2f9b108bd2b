"""Reads the engines' own metrics pages, all instances at once: a slow or dead one delays no other."""

import asyncio
import resource
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import aiohttp

from deployments.drivers import kubernetes_driver
from deployments.models import Cluster, Instance
from runtimes.driver import DriverError
from runtimes.engines import registry
from runtimes.engines.metrics import EngineSample, parse
from runtimes.observation import READY

TIMEOUT_S = 3.0
# A vLLM page has 60 KB; what is longer is no metrics page.
MAX_BYTES = 2 << 20
PROXIED_AT_ONCE = 16
_SPARE_FILES = 256


@dataclass(frozen=True)
class Outcome:
    """One instance's sample, or the reason why there is none."""

    sample: EngineSample | None = None
    reason: str = ""


def scrape(instances: Sequence[Instance]) -> dict[str, Outcome]:
    """The outcome of each instance by its uid; takes TIMEOUT_S at most, however many there are."""
    outcomes: dict[str, Outcome] = {}
    direct: dict[str, str] = {}
    proxied: list[tuple[Instance, str]] = []
    for instance in instances:
        path = metrics_path(instance)
        cluster = instance.version.deployment.endpoint.cluster
        if instance.phase != READY or not instance.address:
            outcomes[instance.uid] = Outcome(reason="the instance is not ready")
        elif path is None:
            outcomes[instance.uid] = Outcome(reason="this engine has no metrics page")
        elif cluster.is_proxied:
            proxied.append((instance, path))
        else:
            direct[instance.uid] = f"http://{instance.address}{path}"
    if direct:
        outcomes |= asyncio.run(read_all(direct))
    if proxied:
        with ThreadPoolExecutor(PROXIED_AT_ONCE) as pool:
            outcomes |= dict(pool.map(lambda item: (item[0].uid, _read_proxied(*item)), proxied))
    return outcomes


def metrics_path(instance: Instance) -> str | None:
    """Where the instance's engine tells of itself; None when it doesn't."""
    try:
        return registry.engine(instance.version.specification.engine).metrics_path
    except registry.UnknownEngineError:
        return None


async def read_all(targets: dict[str, str]) -> dict[str, Outcome]:
    """The outcome of each address by its key."""
    _allow_files(len(targets) + _SPARE_FILES)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    # No limit of connections: dead targets would hold places that living ones wait for.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        outcomes = await asyncio.gather(*(_read(session, url) for url in targets.values()))
    return dict(zip(targets, outcomes, strict=True))


async def _read(session: aiohttp.ClientSession, url: str) -> Outcome:
    try:
        # Where a redirect leads is the instance's word, and it may name any address of our network.
        async with session.get(url, allow_redirects=False, headers={"Accept-Encoding": "identity"}) as answer:
            if answer.status != 200:
                return Outcome(reason=f"its metrics page answers {answer.status}")
            page = bytearray()
            async for chunk in answer.content.iter_chunked(1 << 16):
                page += chunk
                if len(page) > MAX_BYTES:
                    return Outcome(reason=f"its metrics page is longer than {MAX_BYTES >> 20} MiB")
    except TimeoutError:
        return Outcome(reason=f"its metrics page did not answer within {TIMEOUT_S:g} s")
    except (aiohttp.ClientError, OSError, ValueError):
        return Outcome(reason="its metrics page can't be reached from here")
    return _outcome(page.decode(errors="replace"))


def _read_proxied(instance: Instance, path: str) -> Outcome:
    """Through the cluster's API server, which is all that can be reached of it from here."""
    cluster: Cluster = instance.version.deployment.endpoint.cluster
    try:
        port = instance.address.rpartition(":")[2]
        driver = kubernetes_driver(cluster)
        return _outcome(driver.page(instance.qualified_name, port, path, limit=MAX_BYTES, within_s=TIMEOUT_S))
    except DriverError as error:
        return Outcome(reason=f"its metrics page can't be reached through the API server: {error}")


def _outcome(page: str) -> Outcome:
    sample = parse(page)
    return Outcome(reason="its metrics page tells nothing that is known here") if sample.is_empty else Outcome(sample)


def _allow_files(wanted: int) -> None:
    """Each target takes a socket, and many systems allow a process 1,024 files unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
