"""``tierwise serve``: run the proxy until it is told to stop."""

from __future__ import annotations

import argparse
import ipaddress
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from router.cli import add_data_dir, cache_dir, data_dir

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from starlette.applications import Starlette

    from policies.schema import Limits
    from router.settings import Settings

DEFAULT_PORT = 8080
_NOT_OPEN = """\
{host} can be reached from other machines, and this policy lets everybody there spend.
Require keys (in the policy: auth: {{required: true}}; tierwise keys create makes one), or say --open."""
_OTHER_FILES = 256


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("policy", metavar="POLICY", help="policy file, or the name of a preset")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the socket (default: %(default)s)")
    parser.add_argument("--open", action="store_true", help="allow listening beyond loopback, where anybody may spend")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    add_data_dir(parser)


def run(args: argparse.Namespace) -> int:
    """Serve; 1 when the policy is not valid or the address cannot be had, 2 when it would be open to everybody."""
    from policies.document import PolicyErrors
    from router.settings import Settings, load_policy, policy_file
    from router.telemetry import configure_logging
    from router.workers import meeting_place

    configure_logging(args.log_level.upper())
    data, guarded = data_dir(args), not _is_loopback(args.host) and not args.open
    settings = Settings(policy_file(args.policy, data), data, cache_dir(), args.log_level.upper(), guarded)
    try:
        policy = load_policy(settings.policy).policy
    except (OSError, PolicyErrors) as error:
        print(error, file=sys.stderr)
        return 1
    if guarded and not policy.auth.required:
        print(_NOT_OPEN.format(host=args.host), file=sys.stderr)
        return 2
    try:
        listener = socket.create_server((args.host, args.port), family=_family(args.host), backlog=2048)
    except OSError as error:
        print(f"cannot listen on {args.host}:{args.port}: {error.strerror}", file=sys.stderr)
        return 1
    _allow_connections(policy.limits.connections)
    with ExitStack() as stack:
        if args.workers > 1:
            settings = replace(settings, meeting=stack.enter_context(meeting_place(data)))
        return _serve(settings, listener, args.workers, policy.limits)


def _serve(settings: Settings, listener: socket.socket, workers: int, limits: Limits) -> int:
    import uvicorn

    from router.guard import Guarded
    from router.launch import LISTENING

    config = uvicorn.Config(
        partial(_application, settings),
        factory=True,
        loop="uvloop",
        http=partial(Guarded, limits=limits),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        workers=workers,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        date_header=False,
        timeout_keep_alive=max(1, round(limits.idle.total_seconds())),
        timeout_graceful_shutdown=max(1, round(limits.drain.total_seconds())),
    )
    host, port = listener.getsockname()[:2]
    listener.set_inheritable(True)
    print(f"{LISTENING}http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    # uvicorn drains, then raises the signal again for us to end by.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if workers > 1:
        from uvicorn.supervisors import Multiprocess

        Multiprocess(config, sockets=[listener]).run()
        return 0
    server = uvicorn.Server(config)
    server.run(sockets=[listener])
    return 0 if server.started else 1


def _application(settings: Settings) -> Starlette:
    """The application, in a worker that ends when the process that started it is gone, however that ended."""
    from router.app import create

    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()
    return create(settings)


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _allow_connections(most: int) -> None:
    """Raise the limit on open files, if the system lets us: each connection is one, and so is each to a backend."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * most + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
