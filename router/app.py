"""The ASGI application: routes over one `Proxy`, which lives as long as the server does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from router import endpoints
from router.compose import open_proxy
from router.gate import Gate
from router.settings import Settings


def create(settings: Settings) -> Starlette:
    """The application for these settings. Nothing is opened before its lifespan starts."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_proxy(settings) as proxy:
            app.state.proxy = proxy
            yield

    return Starlette(
        routes=[
            Route("/v1/chat/completions", endpoints.ChatCompletions(), methods=["POST"]),
            Route("/v1/models", endpoints.models),
            Route("/v1/route", endpoints.route, methods=["POST"]),
            Route("/healthz", endpoints.healthz),
            Route("/readyz", endpoints.readyz),
            Route("/metrics", endpoints.metrics),
            Route("/report", endpoints.report),
            Route("/engines", endpoints.engines),
        ],
        middleware=[Middleware(Gate)],
        exception_handlers=endpoints.EXCEPTION_HANDLERS,
        lifespan=lifespan,
    )
