"""The ASGI application: routes over one `Proxy`, which lives as long as the server does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from router import endpoints
from router.compose import open_proxy
from router.express import PATH, Chat
from router.gate import Gate
from router.proxy import Proxy
from router.settings import Settings


class Application(Starlette):
    """The routes, and a way past them for what nearly every request asks for."""

    proxy: Proxy

    def admit(self, headers: Mapping[bytes, bytes]) -> Chat | None:
        """What answers a chat request with these headers; None where it is refused, which `Gate` does."""
        return endpoints.admit(self.proxy, headers)


def create(settings: Settings) -> Starlette:
    """The application for these settings. Nothing is opened before its lifespan starts."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_proxy(settings) as proxy:
            app.state.proxy = application.proxy = proxy
            yield

    application = Application(
        routes=[
            Route(PATH.decode(), endpoints.ChatCompletions(), methods=["POST"]),
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
    application.router.redirect_slashes = False  # a redirect would name whatever host the request does
    return application
