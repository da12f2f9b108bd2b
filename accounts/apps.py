from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        from accounts import passwords, second_factor  # noqa: F401 (their receivers)
