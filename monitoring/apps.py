from django.apps import AppConfig


class MonitoringConfig(AppConfig):
    name = "monitoring"

    def ready(self) -> None:
        from monitoring import receivers

        # Imported for its effect: it listens from then on.
        assert receivers  # noqa: S101
