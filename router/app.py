"""The ASGI application: routes over one `Proxy`, which lives as long as the server does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from router import endpoints
from router.compose import open_proxy
from router.gate import Gate
from router.settings import Settings

CHAT = "/v1/chat/completions"


class Application(Starlette):
    """The routes, and a way past them for what nearly every request asks for: routing costs as much as deciding."""

    straight = Gate(endpoints.ChatCompletions())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"] == CHAT and scope["method"] == "POST":
            scope["app"] = self
            await self.straight(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create(settings: Settings) -> Starlette:
    """The application for these settings. Nothing is opened before its lifespan starts."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_proxy(settings) as proxy:
            app.state.proxy = proxy
            yield

    app = Application(
        routes=[
            Route(CHAT, endpoints.ChatCompletions(), methods=["POST"]),
            Route("/v1/models", endpoints.models),
            Route("/v1/route", endpoints.route, methods=["POST"]),
            Route("/v1/feedback", endpoints.feedback, methods=["POST"]),
            Route("/healthz", endpoints.healthz),
            Route("/readyz", endpoints.readyz),
            Route("/metrics", endpoints.metrics),
            Route("/report", endpoints.report),
            Route("/engines", endpoints.engines),
            Route("/openapi.json", endpoints.openapi),
        ],
        middleware=[Middleware(Gate)],
        exception_handlers=endpoints.EXCEPTION_HANDLERS,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect would name whatever host the request does
    return app
