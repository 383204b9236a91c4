"""An ASGI application whose work ends with its client, or with its server: whichever leaves first."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Attended:
    """Cancels what an application does for a client that hangs up, in any phase, and all that it does on `leave`.

    Who still waits for an answer when the server leaves gets a 503; a stream ends where it is.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """End all work, now and from now on. Call it on the event loop."""
        self._leaving.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        request = await _read(receive)
        gone = asyncio.create_task(_hang_up(receive))
        leaving = asyncio.create_task(self._leaving.wait())
        begun = False

        async def replay() -> Message:
            if request:
                return request.pop(0)
            await asyncio.wait((gone,))
            return {"type": "http.disconnect"}

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        async def work() -> None:
            await self._app(scope, replay, sent)

        working = asyncio.create_task(work())
        try:
            done, _ = await asyncio.wait((working, gone, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (working, gone, leaving):
                task.cancel()
            await asyncio.gather(working, gone, leaving, return_exceptions=True)
        if working in done:
            working.result()
        elif gone not in done:
            if not begun:
                await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b""})


async def _read(receive: Receive) -> list[Message]:
    """Everything up to the end of the request's body, or of the client."""
    messages = [await receive()]
    while messages[-1].get("more_body", False):
        messages.append(await receive())
    return messages


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
