"""fastfcs app."""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import click

from .errors import sentences
from .options import DEVICE, device_named

_EVERYWHERE = "0.0.0.0", "::"  # the addresses of all networks


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; with any but this computer's own, a password is required.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="By default the first free one from 7860 on.",
)
@click.option(
    "--password",
    envvar="FASTFCS_PASSWORD",
    help="Ask visitors for this password (or set FASTFCS_PASSWORD, which others cannot see).",
)
@DEVICE
def app(host: str, port: int | None, password: str | None, device: str | None) -> None:
    """Serve a page for trying styles in the browser.

    It asks nothing of the network. Pictures are kept in a temporary folder, which is removed when
    the command ends.
    """
    with sentences():
        if password == "":
            raise ValueError("--password must not be empty")
        if password is None and not _is_loopback(host):
            raise ValueError(f"--password must be given with --host {host}: others can reach it")
        _check_address(host, port)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
        with tempfile.TemporaryDirectory(prefix="fastfcs-") as folder:
            os.environ["GRADIO_TEMP_DIR"] = folder
            try:
                import_module("gradio")
            except ImportError as error:
                raise ValueError(
                    "fastfcs app needs Gradio, which pip install 'fastfcs[app]' installs"
                ) from error
            from ..app.page import Page
            from ..app.turns import start
            from ..app.uploads import MAX_BYTES
            from ..app.visits import Visits
            from ..stylizer import Stylizer

            place = device_named(device)
            page = Page(Visits(start(lambda: Stylizer(refine=True).to(place)).result()))
            _, address, _ = page.blocks.launch(
                server_name=f"[{host}]" if ":" in host else host,
                server_port=port,
                auth=_known_by(password) if password else None,
                auth_message="Type any user name, and the password.",
                max_file_size=MAX_BYTES,
                share=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                footer_links=[],
                run_history=False,
                prevent_thread_lock=True,
                quiet=True,
            )
            sys.addaudithook(stay_offline)
            if host in _EVERYWHERE:
                address = f"http://{socket.gethostname()}:{urlsplit(address).port}/"
            click.echo(f"fastfcs is at {address} until Ctrl-C is pressed.")
            with suppress(KeyboardInterrupt):
                Event().wait()
            page.visits.end_all()
            page.blocks.close(verbose=False)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def stay_offline(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse to connect to others, whatever a visitor's request makes Gradio do.

    Args:
        event: of `sys.addaudithook`.
        arguments: of the event.

    Raises:
        PermissionError: another computer would be asked for something.

    Examples:
        >>> from fastfcs.cli.app import stay_offline
        >>> stay_offline("socket.getaddrinfo", ("localhost", 80))
        >>> stay_offline("socket.getaddrinfo", ("example.org", 80))
        Traceback (most recent call last):
        PermissionError: fastfcs app asks nothing of the network
    """
    if event == "socket.connect":
        host = arguments[1][0] if isinstance(arguments[1], tuple) else None
    else:
        host = arguments[0] if event == "socket.getaddrinfo" else None
    if host is not None and not _is_loopback(host):
        raise PermissionError("fastfcs app asks nothing of the network")


def _check_address(host: str, port: int | None) -> None:
    """Raise an error if nothing can listen there."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        family, kind, _, _, (address, *_) = found[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port or 0))
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise ValueError(f"--host must be this computer's, got {host!r}") from error
        raise ValueError(f"--port must be free and permitted, got {port}") from error


def _known_by(password: str) -> Callable[[str, str], bool]:
    """Let everyone in who knows the password, by whatever name."""

    def is_known(name: str, given: str) -> bool:
        return secrets.compare_digest(given.encode(), password.encode())

    return is_known
