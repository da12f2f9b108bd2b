from django.apps import AppConfig


class ApiKeysConfig(AppConfig):
    name = "apikeys"

    def ready(self) -> None:
        from apikeys import receivers

        assert receivers  # noqa: S101
