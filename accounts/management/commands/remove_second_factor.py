"""`manage.py remove_second_factor NAME`: for the only operator, who has lost phone and recovery codes."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import second_factor
from accounts.models import User
from common.service_error import ServiceError


class Command(BaseCommand):
    help = "Removes a user's second factor: the password alone signs in again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")

    def handle(self, *args: Any, **options: Any) -> None:
        user = User.objects.filter(username__iexact=options["username"]).first()
        if user is None:
            raise CommandError(f"There is no user {options['username']}.")
        try:
            second_factor.remove(user, actor=None)
        except ServiceError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{user} signs in by password alone now.")
