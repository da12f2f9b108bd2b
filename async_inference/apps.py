from django.apps import AppConfig


class AsyncInferenceConfig(AppConfig):
    name = "async_inference"

    def ready(self) -> None:
        from async_inference import receivers

        assert receivers  # noqa: S101
