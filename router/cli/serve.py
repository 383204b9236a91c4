"""``tierwise serve``: run the proxy until it is told to stop."""

from __future__ import annotations

import argparse
import ipaddress
import signal
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING

from router.cli import add_data_dir, cache_dir, data_dir

if TYPE_CHECKING:
    from router.settings import Settings

DEFAULT_PORT = 8080


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

    if not _is_loopback(args.host) and not args.open:
        print(
            f"{args.host} can be reached from other machines; say --open if everybody there may spend.", file=sys.stderr
        )
        return 2
    configure_logging(args.log_level.upper())
    data = data_dir(args)
    settings = Settings(policy_file(args.policy, data), data, cache_dir(), args.log_level.upper())
    try:
        drain = load_policy(settings.policy).policy.limits.drain
    except (OSError, PolicyErrors) as error:
        print(error, file=sys.stderr)
        return 1
    try:
        listener = socket.create_server((args.host, args.port), family=_family(args.host), backlog=2048)
    except OSError as error:
        print(f"cannot listen on {args.host}:{args.port}: {error.strerror}", file=sys.stderr)
        return 1
    return _serve(settings, listener, args.workers, drain.total_seconds())


def _serve(settings: Settings, listener: socket.socket, workers: int, drain: float) -> int:
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from router.app import create
    from router.launch import LISTENING

    config = uvicorn.Config(
        partial(create, settings),
        factory=True,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        workers=workers,
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=max(1, round(drain)),
    )
    host, port = listener.getsockname()[:2]
    listener.set_inheritable(True)
    print(f"{LISTENING}http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    # uvicorn drains, then raises the signal again for us to end by.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if workers > 1:
        Multiprocess(config, sockets=[listener]).run()
        return 0
    server = uvicorn.Server(config)
    server.run(sockets=[listener])
    return 0 if server.started else 1


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
