"""Patches of a store on an S3 server: `python -m benchmarks.remote --json FILE`.

The server is moto on 127.0.0.1 behind a proxy that counts requests and delays them. Its own time is
not that of a real one; requests and bytes are exact, and elapsed times say what latency costs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from urllib.request import Request, urlopen

from benchmarks.inputs import LABELS
from benchmarks.ours.data import write_store
from benchmarks.rows import OURS, Row, Session, main, row, take_turns, within
from benchmarks.volumes import write_volumes
from benchmarks.worker import Round

URL = "s3://benchmark/store"
COUNTED = 40  # patches
TIMED = 2  # per turn: zarr-python takes ten seconds for each
LATENCIES_MS = (0, 30)
ROUNDS = 3


class Loopback:
    """The running server."""

    def __init__(self, port: int) -> None:
        self._root = f"http://127.0.0.1:{port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self._root,
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "benchmark",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        urlopen(Request(f"{self._root}/benchmark", method="PUT")).close()  # the bucket

    def behave(self, **behaviour: float) -> None:
        """Set the latency and start to count anew."""
        body = json.dumps(behaviour).encode()
        urlopen(Request(f"{self._root}/-/behave", body, method="POST")).close()

    def counts(self) -> dict[str, int]:
        """Requests by method and bytes answered since `behave`."""
        with urlopen(f"{self._root}/-/counts") as answer:
            return dict(json.load(answer))


@contextmanager
def loopback() -> Iterator[Loopback]:
    """Run the server."""
    command = [sys.executable, str(Path(__file__).with_name("loopback_s3.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        yield Loopback(int(server.stdout.readline()))


def count_requests(server: Loopback, read: Round, patches: int) -> tuple[float, float]:
    """Requests and MB per patch of a turn that reads `patches` of them."""
    server.behave()
    read()
    counts = server.counts()
    asked = counts["get"] + counts["head"] + counts["other"]
    return asked / patches, counts["body_bytes"] / patches / 1e6


def measure(session: Session) -> Iterator[Row]:
    """All rows of this file."""
    source = write_volumes(session.folder / "volumes", 2)
    root = session.folder / "store"
    write_store(session.folder / "volumes", root, LABELS, codec="network")
    with loopback() as server:
        environment, cache = server.environment, f"{session.folder}/cache"
        session.own("remote:copying", root=str(root), url=URL, environment=environment)()
        both = {"url": URL, "cache": cache, "environment": environment}
        counted = session.own("remote:reading", patches=COUNTED, **both)
        requests, mb = count_requests(server, counted, COUNTED)
        yield within("S3 requests per 128^3 patch", requests, 9, "requests", source)
        yield within("bytes from S3 per 128^3 patch", mb, 7, "MB", source)
        peer = "zarr-python with s3fs"
        sides = {
            OURS: session.own("remote:reading", patches=TIMED, **both),
            peer: session.own("remote:reading_with_zarr", patches=TIMED, **both),
        }
        theirs, _ = count_requests(server, sides[peer], TIMED)
        note = f"{theirs:.0f} requests"
        for latency_ms in LATENCIES_MS:
            server.behave(latency_ms=latency_ms)
            turns = take_turns(sides, min(session.rounds, ROUNDS))
            work = f"128^3 patch from S3, +{latency_ms} ms per request"
            elapsed = attrgetter("wall_ms")
            yield row(work, turns, peer, of=elapsed, per=TIMED, unit="ms", note=note)


if __name__ == "__main__":
    main(measure)
