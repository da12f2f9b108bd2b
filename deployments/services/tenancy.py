"""Who may use a cluster, and what may be asked for there."""

from accounts.models import Organization
from accounts.permissions import Actor, is_operator
from common.service_error import ForbiddenError, ServiceError
from deployments.models import Cluster, Deployment
from runtimes import model_source
from runtimes.allowances import Allowances
from runtimes.model_source import ClaimSource
from runtimes.specification import Specification


def check_organization(organization: Organization, cluster: Cluster, field: str = "cluster") -> None:
    """Raises where the organization may not use the cluster, whoever asks: an operator changes the cluster first."""
    if not cluster.serves(organization.pk):
        raise ForbiddenError(
            f"{organization} may not use the cluster {cluster}. An operator can allow it on the cluster's page.",
            field=field,
        )


def check_asked(deployment: Deployment, specification: Specification, *, actor: Actor) -> None:
    """Raises for all that this cluster's operators don't allow to organizations. They themselves may ask for anything."""
    cluster = deployment.endpoint.cluster
    check_organization(deployment.organization, cluster, field="endpoint")
    if is_operator(actor) or cluster.driver == Cluster.Driver.LOCAL:
        return
    allowed = Allowances.from_json(cluster.allowances)
    problems = allowed.errors(specification, deployment.organization.name, _claim(specification))
    if problems:
        raise ServiceError.of_fields(problems, code="not_allowed")


def _claim(specification: Specification) -> str:
    try:
        source = model_source.read(specification.model_uri)
    except model_source.SourceError:
        return ""
    return source.claim if isinstance(source, ClaimSource) else ""
