"""What is etcd's own: snapshots instead of old commands, one leader under a lease, TLS, answers that are none."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.etcd import CLUSTER_ID, EtcdCluster, EtcdServer
from tests.support.machine import Machine, until
from witnz.cluster.etcd import EtcdEngine
from witnz.cluster.etcd_client import EtcdClient, EtcdTls, range_of
from witnz.ending import end_threads
from witnz.errors import FormatError, NoQuorum, UsageError


def test_old_commands_are_dropped_and_who_missed_them_restores(tmp_path: Path) -> None:
    cluster = EtcdCluster(tmp_path, keep_commands=10)
    cluster.start("node1", "node2")
    try:
        for k in range(40):
            cluster.engines["node1"].propose(b"%d" % k, f"k{k}", 60)
        client = EtcdClient([cluster.server.endpoint])
        until(lambda: client.read([range_of(f"/witnz/{CLUSTER_ID}/snapshot".encode())], 5)[0].items)
        client.close()
        cluster.start("node3")
        until(lambda: len(cluster.machines["node3"].applied) == 40)
        assert cluster.machines["node3"].restored == 1
        assert cluster.machines["node3"].applied == cluster.machines["node1"].applied
    finally:
        cluster.end()


def test_one_leads_and_another_does_when_it_is_gone(tmp_path: Path) -> None:
    cluster = EtcdCluster(tmp_path)
    cluster.start()
    try:
        until(lambda: len({engine.leader() for engine in cluster.engines.values()}) == 1 and cluster.engines["node1"].leader())
        leader = cluster.engines["node1"].leader()
        assert leader is not None
        cluster.stop(leader)
        rest = list(cluster.engines.values())
        until(lambda: len({engine.leader() for engine in rest}) == 1 and rest[0].leader() not in (None, leader))
    finally:
        cluster.end()


def test_a_proposal_made_twice_is_ordered_once(tmp_path: Path) -> None:
    cluster = EtcdCluster(tmp_path)
    cluster.start()
    try:
        first = cluster.engines["node1"].propose(b"once", "key", 60)
        assert cluster.engines["node2"].propose(b"once", "key", 60) == first
        assert cluster.machines["node1"].commands == [b"once"]
    finally:
        cluster.end()


def certificate(name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None, directory: Path):
    """A certificate for 127.0.0.1 and its key, in files; an authority where ``issuer`` is None."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(issuer[1] if issuer else key, hashes.SHA256())
    )
    (directory / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (directory / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made, key


def test_etcd_may_demand_a_client_certificate(tmp_path: Path) -> None:
    authority = certificate("ca", None, tmp_path)
    for name in ("server", "client"):
        certificate(name, authority, tmp_path)
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    certificate("ca", None, stranger)
    files = ["--cert-file", tmp_path / "server.pem", "--key-file", tmp_path / "server.key", "--client-cert-auth"]
    server = EtcdServer(tmp_path / "data", *map(str, files), "--trusted-ca-file", str(tmp_path / "ca.pem"), scheme="https")
    try:
        good = EtcdTls(tmp_path / "ca.pem", tmp_path / "client.pem", tmp_path / "client.key")

        def answers(tls: EtcdTls) -> bool:
            client = EtcdClient([server.endpoint], tls)
            try:
                client.read([range_of(b"x")], 5)
            except NoQuorum:
                return False
            finally:
                client.close()
            return True

        until(lambda: answers(good))
        assert not answers(EtcdTls(tmp_path / "ca.pem"))
        assert not answers(EtcdTls(stranger / "ca.pem", tmp_path / "client.pem", tmp_path / "client.key"))
    finally:
        server.close()


ANSWERS = {
    "no JSON": b"<html>",
    "a list": b"[]",
    "a number that is none": b'{"header":{"revision":"-1"},"responses":[{"response_range":{}}]}',
    "a number too long": b'{"header":{"revision":"99999999999999999999"},"responses":[{"response_range":{}}]}',
    "too few answers": b'{"header":{"revision":"1"},"responses":[]}',
    "no base64": b'{"header":{"revision":"1"},"responses":[{"response_range":{"kvs":[{"key":"*","value":""}]}}]}',
    "keys that are no list": b'{"header":{"revision":"1"},"responses":[{"response_range":{"kvs":7}}]}',
    "a key that is no object": b'{"header":{"revision":"1"},"responses":[{"response_range":{"kvs":[7]}}]}',
    "much too much": b" " * ((32 << 20) + 10),
}


@pytest.fixture(params=list(ANSWERS))
def liar(request: pytest.FixtureRequest) -> Iterator[str]:
    """Somebody in etcd's place, who answers otherwise."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(ANSWERS[request.param])

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    end_threads(thread)
    server.server_close()


def test_answers_that_are_none_are_refused(liar: str) -> None:
    client = EtcdClient([liar])
    with pytest.raises(FormatError):
        client.read([range_of(b"x")], 10)
    client.close()
    engine = EtcdEngine("node1", CLUSTER_ID, [liar])
    machine = Machine()
    engine.on_apply(machine.apply, machine)
    engine.start()
    with pytest.raises(NoQuorum):
        engine.propose(b"x", "key", 0.3)
    assert machine.applied == []
    assert not engine.status().has_quorum
    engine.close()


def test_endpoints_are_urls() -> None:
    for wrong in ([], ["etcd1:2379"], ["ftp://etcd"]):
        with pytest.raises(UsageError):
            EtcdClient(wrong)


def test_another_endpoint_is_asked_where_one_does_not_answer(tmp_path: Path) -> None:
    server = EtcdServer(tmp_path / "data")
    try:
        client = EtcdClient(["http://127.0.0.1:9", server.endpoint])
        assert client.put_if_absent(b"a", b"1", 5)
        assert not client.put_if_absent(b"a", b"2", 5)
        client.close()
    finally:
        server.close()
