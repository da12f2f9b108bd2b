"""The nouns of deploying, one file each."""

from deployments.models.alias import Alias
from deployments.models.cluster import Cluster
from deployments.models.deployment import Deployment
from deployments.models.directory_version import DirectoryVersion
from deployments.models.endpoint import Endpoint
from deployments.models.event import Event
from deployments.models.gateway_process import GatewayProcess
from deployments.models.installation import Installation
from deployments.models.instance import Instance
from deployments.models.last_words import LastWords
from deployments.models.left_behind import LeftBehind
from deployments.models.log_chunk import LogChunk
from deployments.models.model import Model
from deployments.models.price import Price
from deployments.models.quota import Quota
from deployments.models.rate_limit import RateLimit
from deployments.models.rollout import Rollout
from deployments.models.stranger import Stranger
from deployments.models.version import DesiredState, Status, Version

__all__ = [
    "Alias",
    "Cluster",
    "Deployment",
    "DesiredState",
    "DirectoryVersion",
    "Endpoint",
    "Event",
    "GatewayProcess",
    "Installation",
    "Instance",
    "LastWords",
    "LeftBehind",
    "LogChunk",
    "Model",
    "Price",
    "Quota",
    "RateLimit",
    "Rollout",
    "Status",
    "Stranger",
    "Version",
]
