"""A real tracking server on loopback, and a proxy before it that can answer in its place."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from experiments.tracking.store import create_database


class Server:
    """`mlflow server` on a loopback port, which can be killed and started again."""

    def __init__(self, folder):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.uri, self.folder = f"http://127.0.0.1:{self.port}", folder
        self.backend = f"sqlite:///{folder / 'mlflow.db'}"
        create_database(self.backend)

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self.backend, "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), "--port", str(self.port)]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.process = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None
                time.sleep(0.1)

    def kill(self):
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Proxy:
    """Passes requests on to a server on loopback, but answers those itself whose line contains `of`."""

    def __init__(self, port):
        proxy, self.status, self.body, self.of, self.left = self, 200, b"", None, 0
        self.lines, self.refused = list[str](), 0

        class Handler(BaseHTTPRequestHandler):
            def pass_on(self):
                proxy.lines.append(self.requestline)
                sent = b"".join(self.parts())
                del self.headers["Transfer-Encoding"], self.headers["Content-Length"]
                self.headers["Content-Length"] = str(len(sent))
                if proxy.of is not None and proxy.of in self.requestline and proxy.left > 0:
                    proxy.left -= 1
                    proxy.refused += 1
                    return self.reply(proxy.status, proxy.body, "text/html")
                connection = HTTPConnection("127.0.0.1", port, timeout=30)
                connection.request(self.command, self.path, sent, dict(self.headers))
                answer = connection.getresponse()
                self.reply(answer.status, answer.read(), answer.getheader("Content-Type", ""))

            def parts(self):
                """Yield the body; `requests` sends that of an empty file in chunks."""
                if self.headers.get("Transfer-Encoding") != "chunked":
                    yield self.rfile.read(int(self.headers.get("Content-Length", 0)))
                    return
                while size := int(self.rfile.readline(), 16):
                    yield self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()

            def reply(self, status, body, kind):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.pass_on)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, status, body=b"<html>being replaced</html>", of="mlflow", times=10**6):
        """Answer the next requests whose line contains `of`."""
        self.status, self.body, self.of, self.left = status, body, of, times

    def seen(self, of, times):
        """Return whether so many requests whose line contains `of` have come."""
        return sum(of in line for line in self.lines) >= times

    def pass_all(self):
        self.of = None
