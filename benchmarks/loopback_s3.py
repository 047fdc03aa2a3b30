"""An S3 server on 127.0.0.1 that counts, delays and spoils answers: `python loopback_s3.py`.

moto's server behind a proxy. Prints the proxy's port, then serves until its standard input closes.
`POST /-/behave` with a `Behaviour` as JSON sets what happens from now on and zeroes the counts,
`GET /-/counts` reads them. For tests and benchmarks; imports nothing of ours.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import threading
from dataclasses import asdict, dataclass

from aiohttp import ClientSession, web
from moto.server import ThreadedMotoServer

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
INTERNAL = b"<Error><Code>InternalError</Code><Message>Try again.</Message></Error>"
HOP_BY_HOP = ("connection", "content-length", "transfer-encoding", "server", "date")


@dataclass
class Behaviour:
    """What the proxy does to requests.

    Attributes:
        latency_ms: Added to each.
        share: Fraction of the reading ones that are spoiled.
        faults: How, in turn: `500`, `503`, `drop` the connection, `cut` the body short of its
            announced length, `short` body announced as such, `flip` a bit, `stall` for 60 s, `403`.
        seed: Of the choice which.
    """

    latency_ms: float = 0.0
    share: float = 0.0
    faults: tuple[str, ...] = ()
    seed: int = 0


@dataclass
class Counts:
    """What was asked and answered since `behave`."""

    get: int = 0
    head: int = 0
    put: int = 0
    other: int = 0
    body_bytes: int = 0  # of answers to GET
    spoiled: int = 0


class Proxy:
    """Forwards to `target` as `behaviour` says."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._set(Behaviour())

    def _set(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._counts = Counts()
        self._random = random.Random(behaviour.seed)

    async def behave(self, request: web.Request) -> web.Response:
        """Take over a new behaviour."""
        self._set(Behaviour(**await request.json()))
        return web.Response()

    async def counts(self, _: web.Request) -> web.Response:
        """Tell the counts."""
        return web.json_response(asdict(self._counts))

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """Answer a request as moto does, or worse."""
        counts, method = self._counts, request.method.lower()
        name = method if hasattr(counts, method) else "other"
        setattr(counts, name, getattr(counts, name) + 1)
        await asyncio.sleep(self._behaviour.latency_ms / 1000)
        fault = self._fault() if request.method in ("GET", "HEAD") else ""
        if fault == "stall":
            await asyncio.sleep(60)
        if fault in ("500", "503", "403"):
            body = {"500": INTERNAL, "503": SLOW_DOWN}.get(fault, b"")
            return web.Response(status=int(fault), body=body, content_type="application/xml")
        status, headers, data = await self._ask(request)
        if request.method == "HEAD" or fault == "drop":
            if fault == "drop" and request.transport is not None:
                request.transport.abort()
            return web.Response(status=status, headers=headers)
        if request.method == "GET":
            counts.body_bytes += len(data)
        return await _answer(request, status, headers, data, fault)

    def _fault(self) -> str:
        behaviour, counts = self._behaviour, self._counts
        if not behaviour.faults or self._random.random() >= behaviour.share:
            return ""
        counts.spoiled += 1
        return behaviour.faults[counts.spoiled % len(behaviour.faults)]

    async def _ask(self, request: web.Request) -> tuple[int, dict[str, str], bytes]:
        async with ClientSession(auto_decompress=False) as session:
            url = self._target + request.raw_path
            body = await request.read()
            async with session.request(
                request.method, url, headers=request.headers, data=body
            ) as answer:
                hidden = HOP_BY_HOP if request.method != "HEAD" else HOP_BY_HOP[:1]
                kept = {k: v for k, v in answer.headers.items() if k.lower() not in hidden}
                return answer.status, kept, await answer.read()


async def _answer(
    request: web.Request, status: int, headers: dict[str, str], data: bytes, fault: str
) -> web.StreamResponse:
    half = len(data) // 2
    if fault == "short":
        return web.Response(status=status, headers=headers, body=data[:half])
    if fault == "flip" and data:
        spoiled = bytearray(data)
        spoiled[half] ^= 4
        return web.Response(status=status, headers=headers, body=bytes(spoiled))
    if fault != "cut":
        return web.Response(status=status, headers=headers, body=data)
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = len(data)
    await response.prepare(request)
    await response.write(data[:half])
    if request.transport is not None:
        request.transport.close()
    return response


async def _serve() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    proxy = Proxy(f"http://{host}:{port}")
    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/-/behave", proxy.behave)
    app.router.add_get("/-/counts", proxy.counts)
    app.router.add_route("*", "/{path:.*}", proxy.forward)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    closed, loop = asyncio.Event(), asyncio.get_running_loop()

    def watch() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(closed.set)

    threading.Thread(target=watch, daemon=True).start()
    await closed.wait()
    await runner.cleanup()
    moto.stop()


if __name__ == "__main__":
    asyncio.run(_serve())
