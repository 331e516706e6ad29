"""An S3-compatible server in a process of its own, on a loopback port."""

import os
import subprocess
import sys
from dataclasses import dataclass

_CODE = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]), verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
BUCKET = "models"


@dataclass
class S3Server:
    """Holds what is put there until it ends. Its environment is what a user would set."""

    process: "subprocess.Popen[str]"
    port: int

    @property
    def environment(self) -> dict[str, str]:
        """What leads clients there."""
        return {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def stop(self) -> None:
        """End it, and lose what it holds."""
        self.process.kill()
        self.process.communicate()


def start_server(port: int = 0, **settings: str) -> S3Server:
    """Start a server with one bucket."""
    process = subprocess.Popen(
        [sys.executable, "-c", _CODE, str(port)],
        env={**os.environ, **settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    server = S3Server(process, int(process.stdout.readline()))
    try:
        _make_bucket(server)
    except BaseException:
        server.stop()
        raise
    return server


def _make_bucket(server: S3Server) -> None:
    code = f"import s3fs; s3fs.S3FileSystem().mkdir({BUCKET!r})"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **server.environment}, check=True)
