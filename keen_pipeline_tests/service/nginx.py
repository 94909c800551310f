"""nginx before several services, as the operator of a team would put it there: for the time of a `with` block."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import urllib3

START_SECONDS = 20.0

# In turn; one that does not accept is left out for a second, and the next one is asked. What was sent once is not sent again.
_CONFIG = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
worker_processes 1;
{user}
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_max_body_size 16m;
  client_body_buffer_size 16m;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream keen {{
    {servers}
    keepalive 16;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://keen;
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header Connection "";
      proxy_read_timeout 60s;
    }}
  }}
}}
"""


@contextmanager
def running_nginx(folder: Path, port: int, upstream: Sequence[int]) -> Iterator[str]:
    """The address of a proxy on loopback before services on the ports `upstream`."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise RuntimeError("nginx is missing: apt-get install nginx-light")
    folder.mkdir(parents=True)
    servers = "\n    ".join(f"server 127.0.0.1:{number} max_fails=1 fail_timeout=1s;" for number in upstream)
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(folder=folder, port=port, servers=servers, user=user))
    process = subprocess.Popen([found, "-c", str(config), "-e", str(folder / "error.log")], cwd=folder)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        with urllib3.PoolManager(retries=False, timeout=5) as pool:
            while True:
                try:
                    pool.request("GET", url)
                    break
                except urllib3.exceptions.HTTPError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(f"nginx did not start: {(folder / 'error.log').read_text()[-2000:]}") from None
                    time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(30)
