"""`manage.py rotate_keys`: new keys for sessions, links, identity, webhooks and encryption, while everything runs."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from common.installation_keys import KeysFile
from common.service_error import ServiceError
from dashboard import key_rotation
from dashboard.key_rotation import Report


class Command(BaseCommand):
    help = "Makes new keys and brings what is stored up to them, while everything runs. Former keys stay valid until --drop-former."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--drop-former",
            action="store_true",
            help="forget all keys but the newest: links for passwords that were made before stop working, and so do "
            "receivers of webhooks that still check with their former secret",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        keys = settings.INSTALLATION_KEYS
        try:
            if not isinstance(keys, KeysFile):
                self._tell(key_rotation.bring_up(keys))
                self.stdout.write(
                    "The keys come from the environment. Remove the former ones there when no link needs them."
                )
            elif options["drop_former"]:
                self._tell(key_rotation.drop_former(keys))
                self.stdout.write("The former keys are gone.")
            else:
                self._tell(key_rotation.rotate(keys))
                self.stdout.write(
                    f"New keys are in force; back up {keys.path}. The former ones stay valid for links and webhooks until you run: "
                    "manage.py rotate_keys --drop-former"
                )
        except ServiceError as error:
            raise CommandError(str(error)) from None

    def _tell(self, report: Report) -> None:
        self.stdout.write(f"Encrypted again: {report.secrets}. Sessions signed again: {report.sessions}.")
        for thing in report.unreadable:
            self.stderr.write(f"No key can read the secret of {thing}. Enter it again.")
