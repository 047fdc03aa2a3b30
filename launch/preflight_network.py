"""Preflight of connections: the port where the ranks meet, and the tracker."""

from __future__ import annotations

import netrc
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from launch.preflight_check import Check, WorldPlan, elsewhere
from stunet.engine.tracking import TrackingConfig

TIMEOUT_S = 3.0
WANDB = "https://api.wandb.ai"  # what wandb takes without WANDB_BASE_URL
PORTS = {"https": 443, "http": 80}


def check_port(plan: WorldPlan) -> Check:
    """Whether the port of the rendezvous can be listened on."""
    if not plan.local:
        return elsewhere("port")
    if plan.port is None:
        return Check("port", True, "the launcher takes a free one")
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ended connections linger
        try:
            server.bind(("", plan.port))
            server.listen()
        except OSError as error:
            found = f"port {plan.port}: {error.strerror}"
            return Check("port", False, found, "end the job that uses it, or take another port")
    return Check("port", True, f"{plan.port} is free")


def check_tracker(config: TrackingConfig) -> Check:
    """Whether wandb can be reached and knows us, if the run asks for it."""
    if config.wandb != "online":
        return Check("tracker", True, f"wandb is {config.wandb}")
    base = os.environ.get("WANDB_BASE_URL", WANDB)
    url = urlsplit(base)
    host, port = url.hostname or "", url.port or PORTS.get(url.scheme, 443)
    advice = "set loop.tracking.wandb=offline and run 'wandb sync' later, or mend the connection"
    try:
        socket.create_connection((host, port), TIMEOUT_S).close()
    except OSError as error:
        found = f"{host}:{port} cannot be reached: {error.strerror or error}"
        return Check("tracker", False, found, advice)
    if not (os.environ.get("WANDB_API_KEY") or _key_in_netrc(host)):
        found = f"{host} answers, but there is no API key"
        return Check("tracker", False, found, "set WANDB_API_KEY or run 'wandb login'")
    return Check("tracker", True, f"{host} answers, an API key is there")


def _key_in_netrc(host: str) -> bool:
    """Whether `wandb login` has left a key; what the key is stays in the file."""
    file = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return netrc.netrc(file).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
