"""The websocket of live charts: who may see the deployment gets its points, each second."""

import asyncio
import contextlib
import logging
from typing import Any

from channels.db import database_sync_to_async
from django.http import QueryDict

from accounts.models import User
from deployments.consumers import SignedInConsumer
from deployments.models import Deployment
from deployments.selectors import visible_deployments
from monitoring import queries
from monitoring.live import views
from monitoring.question import Question, UnclearQuestionError

log = logging.getLogger(__name__)

UNCLEAR = 4422
_LONGEST_QUERY = 2000


class MetricsConsumer(SignedInConsumer):
    """`{"charts": {id: {"points": {curve: [times, values]}}}, "statistics", …}` each second, for the question in the address."""

    channel_layer_alias = None

    async def begin(self) -> None:
        deployment = await self._deployment()
        if deployment is None:
            await self.turn_away()
            return
        try:
            question = Question.from_query(QueryDict(self.scope["query_string"][:_LONGEST_QUERY]))
            await database_sync_to_async(queries.check_subjects)(deployment, question)
        except UnclearQuestionError:
            await self.close(code=UNCLEAR)
            return
        if not question.is_live:
            await self.close(code=1000)
            return
        self._message = ""
        self._news = asyncio.Event()
        self._view = (deployment, question, self)
        self._task = asyncio.get_running_loop().create_task(self._send())
        views.join(*self._view)

    def offer(self, message: str) -> None:
        """A page that reads slowly skips messages: each one tells all that changed in the last seconds."""
        self._message = message
        self._news.set()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any) -> None:
        """Pages only listen. What one sends all the same must not end this consumer before it has left its view."""

    async def disconnect(self, code: int) -> None:
        if hasattr(self, "_view"):
            views.leave(*self._view)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _send(self) -> None:
        try:
            await self._send_news()
        except Exception:
            # The database restarts while rights are asked for, for example: the page connects again by itself.
            log.exception("a page of live charts is closed")
            with contextlib.suppress(Exception):
                await self.close(code=1011)

    async def _send_news(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            with contextlib.suppress(OSError):
                await self.send(text_data=self._message)

    async def is_allowed(self) -> bool:
        return await self._deployment() is not None

    @database_sync_to_async
    def _deployment(self) -> Deployment | None:
        names = self.scope["url_route"]["kwargs"]
        user = User.objects.filter(pk=self.scope["user"].pk, is_active=True).first()
        if user is None:
            return None
        return (
            visible_deployments(user)
            .filter(organization__name=names["organization"], name=names["name"])
            .select_related("organization")
            .first()
        )
