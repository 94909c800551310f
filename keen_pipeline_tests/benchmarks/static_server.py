"""A web server of static files that is not the bottleneck: nginx where it is installed, else a sendfile loop of our own.

python -m keen_pipeline_tests.benchmarks.static_server FOLDER   (the loop; prints its port)
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from keen_pipeline_tests.servers.ports import free_port

START_SECONDS = 20.0

_NGINX = """{user}daemon off; worker_processes 1; pid {work}/nginx.pid; error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; sendfile_max_chunk 2m;
  client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
  uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@dataclass(frozen=True)
class StaticServer:
    """`kind`: nginx or sendfile."""

    kind: str
    port: int

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"


@contextmanager
def serving(root: Path, work: Path) -> Iterator[StaticServer]:
    """Serve the files under `root` in a process of its own until the block ends; `work` is a folder for its own files."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    port = free_port()
    if nginx:
        # As root it would serve as another user, who can't read the temporary folder.
        user = f"user {getpass.getuser()}; " if os.geteuid() == 0 else ""
        (work / "nginx.conf").write_text(_NGINX.format(user=user, work=work, root=root, port=port))
        command = [nginx, "-c", str(work / "nginx.conf"), "-e", "stderr"]
    else:
        command = [sys.executable, "-m", "keen_pipeline_tests.benchmarks.static_server", str(root), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield StaticServer("nginx" if nginx else "sendfile", port)
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the static server did not start") from None
            time.sleep(0.02)
        else:
            return


def serve_with_sendfile(root: Path, port: int) -> None:
    """Answer GETs of whole files, connections kept, one thread each, until the process is ended."""
    listener = socket.create_server(("127.0.0.1", port), backlog=256)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_answer, args=(sock, root), daemon=True).start()


def _answer(sock: socket.socket, root: Path) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        with sock, sock.makefile("rb") as reader:
            while line := reader.readline():
                headers = iter(reader.readline, b"\r\n")
                close = any(header.lower().split() == [b"connection:", b"close"] for header in headers)
                name = line.split()[1].decode().split("?")[0].lstrip("/")
                with (root / name).open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    ending = "close" if close else "keep-alive"
                    sock.sendall(
                        f'HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nETag: "{size}"\r\nConnection: {ending}\r\n\r\n'.encode()
                    )
                    if line.startswith(b"GET"):
                        sock.sendfile(file)
                if close:
                    return
    except (BrokenPipeError, ConnectionResetError):
        return  # the client has gone


if __name__ == "__main__":
    serve_with_sendfile(Path(sys.argv[1]), int(sys.argv[2]))
