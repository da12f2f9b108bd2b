"""How a version is started: its engine's plan, with the secrets that the model's own source needs."""

import logging
from dataclasses import replace
from functools import cached_property

from common.encryption import SecretUnreadableError
from deployments.models import Version
from runtimes.cause import Cause
from runtimes.engines.registry import UnknownEngineError, engine
from runtimes.launch_plan import Fetch, LaunchPlan
from runtimes.model_source import same_place

log = logging.getLogger(__name__)


class Launch:
    """The plan of one version, made when somebody first asks: most looks at a version that runs need none."""

    def __init__(self, version: Version) -> None:
        self._version = version

    @property
    def plan(self) -> LaunchPlan | None:
        return self._made[0]

    @property
    def broken(self) -> Cause | None:
        """Why there is no plan."""
        return self._made[1]

    @cached_property
    def _made(self) -> tuple[LaunchPlan | None, Cause | None]:
        return launch_plan(self._version)


def launch_plan(version: Version) -> tuple[LaunchPlan | None, Cause | None]:
    """The plan, or the cause why there is none."""
    try:
        specification = version.specification_with_secrets()
        chosen = engine(specification.engine)
        plan = chosen.plan(specification, version.deployment.endpoint.cluster.driver).placed_like(specification)
        # Where it runs and by whose quota goes by whose it is, not by what the specification calls it.
        plan = replace(plan, organization=version.deployment.organization.name)
        model = version.deployment.model
        # The key of a store opens nothing in a hub, and must not be sent to one, whatever the model has become since.
        token = model.credential_token() if same_place(specification.model_uri, model.uri) else ""
        if token and chosen.credential_variables and model.source in chosen.credential_sources and plan.fetch is None:
            # What the version says itself counts more.
            given = dict.fromkeys(chosen.credential_variables, token) | plan.secret_environment
            plan = replace(plan, secret_environment=given)
        if plan.fetch is not None:
            plan = replace(plan, fetch=_with_credentials(plan.fetch, token))
        return plan, None
    except SecretUnreadableError as error:
        return None, Cause("secret_unreadable", str(error), "Enter the secret values again in a new version.")
    except UnknownEngineError as error:
        return None, Cause("unknown_engine", str(error), "Start a version with another engine.")
    except Exception as error:
        # Whatever an engine stumbles over: the version ends in Error with it instead of hanging for ever.
        log.exception("no launch plan for %s", version)
        return None, Cause(
            "bad_specification", f"The engine can't use this specification: {error}.", "Start a corrected version."
        )


def _with_credentials(fetch: Fetch, token: str) -> Fetch:
    """The store's key, stored as `id:secret`; without one the store is asked as anybody."""
    key, colon, secret = token.partition(":")
    if not colon:
        return fetch
    return replace(fetch, secret_environment=dict(zip(fetch.credential_variables, (key, secret), strict=True)))
