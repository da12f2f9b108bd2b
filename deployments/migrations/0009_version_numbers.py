from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.models import Max, OuterRef, Subquery
from django.db.models.functions import Coalesce


def take_over(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    version, deployment = apps.get_model("deployments", "Version"), apps.get_model("deployments", "Deployment")
    highest = (
        version.objects.filter(deployment=OuterRef("pk"))
        .order_by()
        .values("deployment")
        .annotate(last=Max("number"))
        .values("last")
    )
    deployment.objects.update(last_number=Coalesce(Subquery(highest), 0))


class Migration(migrations.Migration):
    dependencies = [("deployments", "0008_limits_and_prices")]

    operations = [
        migrations.AddField(model_name="deployment", name="last_number", field=models.PositiveIntegerField(default=0)),
        migrations.RunPython(take_over, migrations.RunPython.noop),
    ]
