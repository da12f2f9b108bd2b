"""The channel layer, with waits that end: those of quiet websockets, and those of websockets that left."""

import asyncio
from typing import Any

from channels_redis.core import RedisChannelLayer


class ChannelLayer(RedisChannelLayer):
    """Each quiet websocket asks for news again and again, each question as long as `brpop_timeout` seconds.

    The library's own 5 are as long as its client waits for any answer, so that each socket that was quiet for so long
    was cut off.
    """

    brpop_timeout = 3

    async def _brpop_with_clean(self, *arguments: Any, **options: Any) -> Any:
        """Ends for a socket that left: before Python 3.12 a cancellation that meets a command's sending is lost."""
        found = await super()._brpop_with_clean(*arguments, **options)
        task = asyncio.current_task()
        if found is None and task is not None and task.cancelling():
            raise asyncio.CancelledError
        return found
