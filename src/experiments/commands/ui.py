"""Show the runs of a tracking store in MLflow's UI, until Ctrl-C.

python scripts/ui.py                          the store that run.py uses
python scripts/ui.py --port 5001              on another port
python scripts/ui.py --experiment NAME        opens this experiment instead of the latest
python scripts/ui.py --sweep RUN_ID           opens the runs of a sweep
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from experiments.errors import CommandParser, StoreError, UserError, run_command
from experiments.tracking.addresses import artifacts_folder, check_tracking_uri, database_file, resolve_tracking_uri
from experiments.tracking.liveness import mark_dead_runs
from experiments.tracking.store import connect_store, create_database, latest_experiment_id
from experiments.tracking.ui_pages import charts_page, runs_table_page, sweep_page


def main() -> int:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--uri", help="tracking URI; default: $MLFLOW_TRACKING_URI, else mlruns/mlflow.db")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=5000, help="port to listen on (default: %(default)s)")
    opened = parser.add_mutually_exclusive_group()
    opened.add_argument("--experiment", metavar="NAME", help="experiment to open (default: that of the latest run)")
    opened.add_argument("--sweep", metavar="RUN_ID", help="sweep to open, by the id of its parent run")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # ends the server as Ctrl-C does

    def command() -> None:
        options = parser.parse_args()
        if not 1 <= options.port <= 65535:
            parser.error(f"--port={options.port}: expected 1 to 65535")
        with contextlib.suppress(KeyboardInterrupt):  # how the server is meant to end
            serve_ui(resolve_tracking_uri(options.uri), options.host, options.port, options.experiment, options.sweep)

    return run_command(command)


def serve_ui(uri: str, host: str, port: int, experiment: str | None, sweep: str | None) -> None:
    """Print the addresses of the pages, and serve them until interrupted; a tracking server already serves its own."""
    if uri.startswith("http"):
        print(*(uri.rstrip("/") + page for page in pages(uri, experiment, sweep)), sep="\n")
        return
    if not is_free(host, port):
        other = next((p for p in range(port + 1, min(port + 100, 65536)) if is_free(host, p)), None)
        none = ", as are the ports after it. Choose another --host or --port."
        fix = f". Try: python scripts/ui.py --port {other}" if other else none
        raise UserError(f"Port {port} on {host} is in use or not allowed{fix}")
    check_tracking_uri(uri)
    create_database(uri)
    with tempfile.TemporaryFile() as log:
        server = start_server(uri, host, port, log.fileno())
        try:
            found = pages(uri, experiment, sweep)  # takes two seconds, while the server starts
            while server.poll() is None and not answers(host, port):
                time.sleep(0.1)
            if server.poll() is None:
                print(*(f"http://{host}:{port}{page}" for page in found), sep="\n", flush=True)
                print("Ctrl-C ends the server.", file=sys.stderr, flush=True)
                server.wait()
            log.seek(0)
            print(log.read().decode(errors="replace")[-4000:], file=sys.stderr)
            raise StoreError("The MLflow server ended unexpectedly; the lines above say why.")
        finally:
            stop_server(server)


def pages(uri: str, experiment: str | None, sweep: str | None) -> list[str]:
    """Return the pages to open, without the host: the table of the runs, and for a sweep also their charts."""
    client = connect_store(uri)
    mark_dead_runs(client)
    if sweep is None:
        experiment_id = latest_experiment_id(client, experiment)
        return [runs_table_page(experiment_id, client.get_experiment(experiment_id).tags)]
    table = sweep_page(client, sweep)
    return [table, charts_page(table)]


def start_server(uri: str, host: str, port: int, log: int) -> "subprocess.Popen[bytes]":
    """Start `mlflow server` in its own process group; with one worker and no jobs it answers in 5 s instead of 19."""
    artifacts = artifacts_folder(database_file(uri)).as_uri()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    command += ["--default-artifact-root", artifacts, "--artifacts-destination", artifacts]
    command += ["--host", host, "--port", str(port), "--uvicorn-opts", "--log-level warning"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def stop_server(server: "subprocess.Popen[bytes]") -> None:
    """End the server and the processes it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(server.pid, number)
            server.wait(timeout=5)


def is_free(host: str, port: int) -> bool:
    """Return whether a server can listen there."""
    with contextlib.suppress(OSError), socket.create_server((host, port)):
        return True
    return False


def answers(host: str, port: int) -> bool:
    try:
        return bool(urllib.request.urlopen(f"http://{host}:{port}/health", timeout=1).status == 200)
    except OSError:
        return False
