"""A `prosody serve` process on loopback and a light HTTP client, for the benchmarks of the service.

The client implements just enough HTTP/1.1 on asyncio's streams. A full client library takes more processor time for a request than
the service does, and here both run on the same machine.
"""

import asyncio
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
START_SECONDS = 120
WAV_HEADER = 44
SENTENCES = (ROOT / "benchmarks" / "sentences" / "test.txt").read_text(encoding="utf-8").split("\n")


@dataclass(frozen=True)
class HttpResponse:
    """A response; ``first`` and ``seconds`` are the times until the first audio and the end, counted from before the request."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    first: float
    seconds: float


class IncompleteResponse(Exception):
    """The connection ended before the response was complete."""


class HttpConnection:
    """A keep-alive connection for one request at a time. It opens at first use, and again after the server has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.answered = False
        """Whether the headers of a response to the last request have arrived."""

    async def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> HttpResponse:
        """Send a request and read the whole response.

        Raises:
            IncompleteResponse: the connection ended before.
            OSError: no server accepts the connection.
        """
        await self.send(method, path, body, headers)
        return await self.answer()

    async def send(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> None:
        """Send a request with a JSON body."""
        data = b"" if body is None else json.dumps(body).encode()
        fields = {"Host": HOST, "Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        head = "".join([f"{method} {path} HTTP/1.1\r\n", *(f"{name}: {value}\r\n" for name, value in fields.items()), "\r\n"])
        self._began = time.perf_counter()
        self.answered = False
        if self._reader is not None and self._reader.at_eof():
            self.close()  # the server has closed the idle connection
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(HOST, self._port)
        self._writer.write(head.encode() + data)
        await self._writer.drain()

    async def answer(self) -> HttpResponse:
        """Read the response to the request that was sent."""
        try:
            status, headers = await self._head()
            first, body = await self._body(headers)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self.close()
            raise IncompleteResponse(f"{type(error).__name__} in a response") from error
        if headers.get("connection") == "close":
            self.close()
        return HttpResponse(status, headers, body, first - self._began, time.perf_counter() - self._began)

    async def first_audio(self) -> float:
        """Return the seconds until audio arrives. The rest of the response stays unread: close the connection after this."""
        assert self._reader is not None
        status, headers = await self._head()
        if status != 200:
            raise IncompleteResponse(f"status {status}")
        size = int(await self._reader.readline(), 16) if headers.get("transfer-encoding") == "chunked" else WAV_HEADER + 1
        await self._reader.readexactly(min(size, WAV_HEADER + 1))
        while size <= WAV_HEADER:
            await self._reader.readline()
            size += int(await self._reader.readline(), 16)
        return time.perf_counter() - self._began

    async def _head(self) -> tuple[int, dict[str, str]]:
        assert self._reader is not None
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.answered = True
        fields = (line.partition(":") for line in head[1:] if line)
        return int(head[0].split()[1]), {name.lower(): value.strip() for name, _, value in fields}

    async def _body(self, headers: Mapping[str, str]) -> tuple[float, bytes]:
        """Return the body, and when its first audio arrived."""
        assert self._reader is not None
        if headers.get("transfer-encoding") != "chunked":
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
            return time.perf_counter(), body
        first = 0.0
        read = bytearray()
        while size := int(await self._reader.readline() or b"-1", 16):
            if size < 0:
                raise asyncio.IncompleteReadError(bytes(read), None)
            read += (await self._reader.readexactly(size + 2))[:-2]
            # The first chunk of a WAV may be its header alone.
            if not first and len(read) > WAV_HEADER:
                first = time.perf_counter()
        await self._reader.readline()
        return first or time.perf_counter(), bytes(read)

    def close(self) -> None:
        """Close the connection at once, without waiting for a response."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None


async def until_taken(watching: HttpConnection, wanted: bool, seconds: float = 30.0) -> float:
    """Poll `/metrics` until jobs are running or waiting, or until none is (``wanted`` False), or ``seconds`` have passed.

    Return the number of jobs that are running or waiting.
    """
    ends = time.perf_counter() + seconds
    while True:
        text = (await watching.ask("GET", "/metrics")).body.decode()
        jobs = sum(taken(figures(text)))
        if bool(jobs) == wanted or time.perf_counter() > ends:
            return jobs
        await asyncio.sleep(0.001)  # another process: there is no event to wait for


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[HttpConnection]:
    """Yield a connection, which is closed after the block."""
    opened = HttpConnection(port)
    try:
        yield opened
    finally:
        opened.close()


class ServerProcess:
    """A running `prosody serve`."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process, self.port = process, port
        self.url = f"http://{HOST}:{port}"

    def megabytes(self) -> float:
        """Return its anonymous resident memory (RssAnon) in MiB, without child processes."""
        return int(self._status("RssAnon")) / 1024

    def threads(self) -> int:
        """Return its number of threads."""
        return int(self._status("Threads"))

    def _status(self, name: str) -> str:
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        found = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
        assert found is not None
        return found[1]

    def processor_seconds(self) -> float:
        """Return the processor time that it and its running children have used so far."""
        total = 0
        for pid in (self.process.pid, *self._children()):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def _children(self) -> Iterator[int]:
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            yield from map(int, (task / "children").read_text(encoding="utf-8").split())

    def metrics(self) -> dict[str, float]:
        """Return every counter and gauge, by name and labels as Prometheus writes them."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            return figures(answer.read().decode())

    def wait_until_ready(self) -> None:
        """Wait until `/ready` responds with success.

        Raises:
            RuntimeError: the process ended, or was not ready in time.
        """
        ends = time.monotonic() + START_SECONDS
        while time.monotonic() < ends:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}")
            try:
                with urllib.request.urlopen(f"{self.url}/ready", timeout=5):
                    return
            except (URLError, ConnectionError, TimeoutError):
                time.sleep(0.02)
        raise RuntimeError(f"the server was not ready within {START_SECONDS} s")


def figures(text: str) -> dict[str, float]:
    """Parse the text of `/metrics`."""
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def taken(metrics: Mapping[str, float]) -> tuple[float, float]:
    """Return how many jobs are running and how many are waiting, over all backends."""
    running = sum(value for name, value in metrics.items() if name.startswith("prosody_running{"))
    return running, sum(value for name, value in metrics.items() if name.startswith("prosody_queue_depth{"))


def free_port() -> int:
    """Return a port that is free at present."""
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        return int(listening.getsockname()[1])


def start(**settings: object) -> ServerProcess:
    """Start a server, without waiting until it is ready. ``settings`` are those of ``PROSODY_API__*``, in lower case."""
    port = free_port()
    environment = dict(os.environ) | {f"PROSODY_API__{name.upper()}": str(value) for name, value in settings.items()}
    command = [str(Path(sys.executable).with_name("prosody")), "serve", "--port", str(port)]
    return ServerProcess(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL), port)


@contextmanager
def server(**settings: object) -> Iterator[ServerProcess]:
    """Run a server during the block; it is ready at its start."""
    running = start(**settings)
    try:
        running.wait_until_ready()
        yield running
    finally:
        end(running)


def end(running: ServerProcess) -> int:
    """Stop the server with SIGTERM, or SIGKILL after a minute; return its exit status."""
    if running.process.poll() is None:
        running.process.send_signal(signal.SIGTERM)
    try:
        return running.process.wait(60)
    except subprocess.TimeoutExpired:
        running.process.kill()
        return running.process.wait()


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest value that at least ``percent`` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def middle(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
    Console().print(table)


def report(title: str, found: Mapping[str, object], file: Path | None) -> None:
    """Print figures by name, and write them as JSON to ``file`` if one is given."""
    if file:
        file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    show(title, ["figure", "value"], list(found.items()))
