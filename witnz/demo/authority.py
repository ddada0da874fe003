"""A real time-stamping authority on this machine: `openssl ts` behind a small HTTP server, with a root and a leaf of its own.

It is not an authority to anybody but this demo; its responses are those of the program that many authorities run, in the order
of certificates that it sends them in.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from witnz.ending import end_server
from witnz.errors import UsageError

MAX_QUERY_BYTES: Final = 4096
OPENSSL_S: Final = 30.0
POLICY: Final = "1.2.3.4.1"
_CONFIG: Final = """\
[tsa]
default_tsa = authority
[authority]
serial = serial
crypto_device = builtin
signer_cert = leaf.pem
signer_key = leaf.key
certs = root.pem
signer_digest = sha256
default_policy = {policy}
digests = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
"""


def openssl_binary() -> str | None:
    """The program; None where there is none."""
    return shutil.which("openssl")


class Authority:
    """A running authority: ``url`` for requests, ``root`` the PEM file of its root certificate."""

    def __init__(self, directory: Path, server: ThreadingHTTPServer) -> None:
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="authority", daemon=True
        )
        self.root = directory / "root.pem"
        self.url = f"http://127.0.0.1:{server.server_address[1]}/tsr"

    @classmethod
    def start(cls, directory: Path, *, valid: tuple[timedelta, timedelta] = (timedelta(days=-1), timedelta(days=3650))) -> Self:
        """Start one in an empty ``directory``; its leaf is ``valid`` from and to so long from now.

        Raises UsageError where there is no openssl.
        """
        binary = openssl_binary()
        if binary is None:
            raise UsageError("openssl is not installed", hint="install the package openssl", code="demo.openssl-missing")
        directory.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC)
        _make_certificates(directory, now + valid[0], now + valid[1])
        (directory / "serial").write_text("01\n")
        (directory / "tsa.cnf").write_text(_CONFIG.format(policy=POLICY))
        authority = cls(directory, ThreadingHTTPServer(("127.0.0.1", 0), _handler(binary, directory)))
        authority._thread.start()
        return authority

    def stop(self) -> None:
        end_server(self._server, self._thread)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _handler(binary: str, directory: Path) -> type[BaseHTTPRequestHandler]:
    one_at_a_time = threading.Lock()  # openssl counts serial numbers in a file

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Nothing: the demo has its own words."""

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            query = self.rfile.read(min(size, MAX_QUERY_BYTES))
            with one_at_a_time:
                (directory / "query").write_bytes(query)
                subprocess.run(
                    [binary, "ts", "-reply", "-config", "tsa.cnf", "-queryfile", "query", "-out", "response"],
                    cwd=directory,
                    check=True,
                    capture_output=True,
                    timeout=OPENSSL_S,
                )
                response = (directory / "response").read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(response)))
            self.end_headers()
            self.wfile.write(response)

    return Handler


def _make_certificates(directory: Path, begins: datetime, ends: datetime) -> None:
    """``root.pem``, ``leaf.pem`` and ``leaf.key``; the root's own key is kept nowhere."""
    root_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    wide = (min(begins, datetime.now(UTC) - timedelta(days=1)), max(ends, datetime.now(UTC) + timedelta(days=1)))
    authority: Mapping[x509.ExtensionType, bool] = {x509.BasicConstraints(ca=True, path_length=0): True}
    stamps: Mapping[x509.ExtensionType, bool] = {x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]): True}
    root = _certificate("witnz demo root", root_key, root_key, wide, authority)
    leaf = _certificate("witnz demo time stamps", leaf_key, root_key, (begins, ends), stamps)
    (directory / "root.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    (directory / "leaf.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    key = directory / "leaf.key"
    key.touch(mode=0o600)
    key.write_bytes(
        leaf_key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    valid: tuple[datetime, datetime],
    extensions: Mapping[x509.ExtensionType, bool],
) -> x509.Certificate:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    builder = x509.CertificateBuilder().subject_name(named(name)).issuer_name(named("witnz demo root"))
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(valid[0]).not_valid_after(valid[1])
    for extension, is_critical in extensions.items():
        builder = builder.add_extension(extension, critical=is_critical)
    return builder.sign(issuer_key, hashes.SHA256())
