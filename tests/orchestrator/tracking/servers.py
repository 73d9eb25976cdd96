"""Real tracking servers for tests: PostgreSQL, MLflow over HTTP, and a proxy between that can be made to fail."""

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from tests.processes import free_port

POSTGRES = Path("/usr/lib/postgresql/15/bin")
START_S = 120  # of a server, on a machine that does other things too


@contextmanager
def postgres(folder: Path, password: str) -> Iterator[str]:
    """Run a PostgreSQL cluster of its own and yield the URI of an empty database; PostgreSQL refuses to run as root."""
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    folder.mkdir()
    secret, data, port = folder / "password", folder / "data", free_port()
    secret.write_text(password)
    become: dict[str, Any] = {}
    if os.getuid() == 0:
        for path in (folder, secret):
            shutil.chown(path, user)
        for parent in folder.parents:  # the user must reach it
            if parent.stat().st_uid == os.getuid() and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
        become = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **become}
    initialise = [POSTGRES / "initdb", "-D", data, "-U", "sagasr", "-A", "scram-sha-256", f"--pwfile={secret}", "-N"]
    subprocess.run([*initialise, "-E", "UTF8", "--locale=C.UTF-8"], check=True, **quiet)
    options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
    settings = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
    server = subprocess.Popen([POSTGRES / "postgres", "-D", data, *settings], **quiet)
    try:
        _wait(lambda: socket.create_connection(("127.0.0.1", port), timeout=1).close(), server)
        _make_database(port, password)
        yield f"postgresql+psycopg2://sagasr:{password}@127.0.0.1:{port}/tracking"
    finally:
        server.send_signal(signal.SIGINT)  # a fast shutdown, which waits for no client
        server.wait(30)


@contextmanager
def mlflow_server(folder: Path, store: str) -> Iterator[str]:
    """Run ``mlflow server`` over a store and yield its URI."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", store, "--artifacts-destination", (folder / "artifacts").as_uri()]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, *stores], stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True
        )
        try:
            uri = f"http://127.0.0.1:{port}"
            _wait(lambda: urllib.request.urlopen(f"{uri}/health", timeout=2).close(), server)
            yield uri
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:  # it waits for its clients, and on a busy machine for itself
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


class Proxy:
    """Stands before a server and lets requests through, or not, as ``mode`` says.

    ok; refuse: the connection is closed unanswered; cut: the server answers, but nobody hears it; 429 and 500: the
    server never hears of it; slow: the answer takes ``delay_s``; hang: it does not come. ``chance`` is the share of
    requests that a mode applies to, drawn from ``seed``.
    """

    def __init__(self, target: str, seed: int = 0) -> None:
        self.target = target
        self.modes: tuple[str, ...] = ("ok",)
        self.chance, self.delay_s = 1.0, 2.0
        self.heard: list[tuple[str, str, str]] = []  # mode, method, path
        self.released = Event()
        self._random, self._lock = random.Random(seed), Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                proxy._handle(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def set(self, *modes: str, chance: float = 1.0) -> None:
        """Let requests meet one of the modes from now on."""
        self.modes, self.chance = modes, chance

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, request: Any) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        with self._lock:
            mode = self._random.choice(self.modes) if self._random.random() < self.chance else "ok"
            self.heard.append((mode, request.command, request.path))
        match mode:
            case "refuse":
                pass
            case "hang":
                self.released.wait()
            case "429" | "500":
                self._answer(request, int(mode), {}, b"try again")
            case _:
                if mode == "slow":
                    time.sleep(self.delay_s)
                answer = self._forward(request, body)
                if mode != "cut":
                    self._answer(request, *answer)
        request.close_connection = True

    def _forward(self, request: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        headers = {key: value for key, value in request.headers.items() if key.lower() not in ("host", "connection")}
        forwarded = urllib.request.Request(self.target + request.path, body or None, headers, method=request.command)
        try:
            with urllib.request.urlopen(forwarded, timeout=60) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as answer:
            return answer.code, dict(answer.headers), answer.read()

    def _answer(self, request: Any, code: int, headers: dict[str, str], body: bytes) -> None:
        try:
            request.send_response(code)
            request.send_header("Content-Type", headers.get("content-type", "text/plain"))
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)
        except OSError:  # the client has given up
            return


def _wait(ready: Any, server: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            ready()
            return
        except OSError as error:
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not start ({error})") from error
            time.sleep(0.1)


def _make_database(port: int, password: str) -> None:
    import psycopg2

    end = time.monotonic() + START_S
    while True:
        try:
            connection = psycopg2.connect(
                host="127.0.0.1", port=port, user="sagasr", password=password, dbname="postgres"
            )
            break
        except psycopg2.OperationalError:  # it listens before it serves
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE tracking")
    connection.close()
