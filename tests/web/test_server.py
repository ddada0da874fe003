"""The socket: who may open it, who is taken for whom, how it begins and ends."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support.served import TABLE, StandingNode
from tests.support.unix_http import ask, ask_as, speak
from witnz.errors import ConfigError, KeyProblem, NodeUnreachable, StoreLocked
from witnz.web.client import NodeClient
from witnz.web.peer import Doorman, Peer, Role, read_peer
from witnz.web.server import SocketServer, bind_socket

NOBODY = 65_534
AUDITORS = 54_321
USERS = {user.pw_name: user.pw_uid for user in pwd.getpwall()}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# -- the file -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o177])
def test_the_socket_is_its_owners_alone_whatever_the_umask(node: StandingNode, folder: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with SocketServer(node, folder / "s") as server:
            assert stat.S_ISSOCK(server.path.lstat().st_mode)
            assert mode_of(server.path) == 0o600
            assert os.umask(umask) == umask, "the umask belongs to the whole process"
    finally:
        os.umask(before)
    assert not (folder / "s").exists()


def test_the_socket_is_never_wider_than_it_shall_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at right after bind, before anything else can have narrowed it."""
    seen = []
    real = Path.chmod

    def look(path: Path, mode: int) -> None:
        seen.append(mode_of(path))
        real(path, mode)

    monkeypatch.setattr(Path, "chmod", look)
    before = os.umask(0)
    try:
        bind_socket(folder / "s", None).close()
    finally:
        os.umask(before)
    assert seen == [0o600]


@as_root
def test_with_a_group_the_socket_is_that_groups_too(folder: Path) -> None:
    bind_socket(folder / "s", AUDITORS).close()
    assert mode_of(folder / "s") == 0o660
    assert (folder / "s").lstat().st_gid == AUDITORS


def test_a_socket_that_a_dead_process_left_is_replaced(node: StandingNode, folder: Path) -> None:
    script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()"
    subprocess.run([sys.executable, "-c", script, str(folder / "s")], check=True, timeout=30)
    assert (folder / "s").exists()
    with SocketServer(node, folder / "s"), NodeClient(folder / "s") as client:
        assert client.is_running()


def test_a_socket_on_which_somebody_answers_is_left_alone(node: StandingNode, folder: Path) -> None:
    with SocketServer(node, folder / "s"):
        with pytest.raises(StoreLocked, match="another process") as caught:
            SocketServer(node, folder / "s").start()
        assert caught.value.exit_code == 11
        assert ask(folder / "s", "GET", "/health/live").status == 200


def test_a_full_backlog_counts_as_somebody(node: StandingNode, folder: Path) -> None:
    waiting = []
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(folder / "s"))
        deaf.listen(0)
        try:
            while True:
                caller = socket.socket(socket.AF_UNIX)
                waiting.append(caller)
                caller.setblocking(False)
                caller.connect(str(folder / "s"))
        except BlockingIOError:
            pass
        with pytest.raises(StoreLocked):
            SocketServer(node, folder / "s").start()
        for caller in waiting:
            caller.close()
    assert (folder / "s").exists()


def test_what_is_no_socket_is_never_removed(node: StandingNode, folder: Path) -> None:
    (folder / "s").write_text("precious")
    with pytest.raises(ConfigError, match="no socket"):
        SocketServer(node, folder / "s").start()
    (folder / "s").unlink()
    (folder / "other").write_text("precious")
    (folder / "s").symlink_to(folder / "other")
    with pytest.raises(ConfigError, match="no socket"):
        SocketServer(node, folder / "s").start()
    assert (folder / "other").read_text() == "precious"


def test_a_path_too_long_for_a_socket_is_refused_with_what_to_set(node: StandingNode, folder: Path) -> None:
    with pytest.raises(ConfigError, match="at most 107 bytes") as caught:
        SocketServer(node, folder / ("x" * 100)).start()
    assert "socket_path" in caught.value.hint
    longest = folder / ("x" * (107 - len(str(folder)) - 1))
    with SocketServer(node, longest), NodeClient(longest) as client:
        assert client.is_running()
    with pytest.raises(NodeUnreachable, match="107"), NodeClient(folder / ("x" * 100)) as client:
        client.status()


def test_a_folder_that_does_not_exist_and_a_group_that_does_not_are_named(node: StandingNode, folder: Path) -> None:
    with pytest.raises(ConfigError, match="folder does not exist"):
        SocketServer(node, folder / "no" / "s").start()
    with pytest.raises(ConfigError, match="no group 'nobody-calls-it-so'"):
        SocketServer(node, folder / "s", "nobody-calls-it-so")


def test_another_servers_socket_is_not_removed_at_the_end(node: StandingNode, folder: Path) -> None:
    server = SocketServer(node, folder / "s")
    server.start()
    (folder / "s").unlink()
    other = bind_socket(folder / "s", None)
    server.stop()
    assert (folder / "s").exists()
    other.close()


def test_stopping_ends_listeners_and_verifications(node: StandingNode, folder: Path) -> None:
    began, ended = threading.Event(), threading.Event()

    def endless(table: str, progress):  # type: ignore[no-untyped-def]
        try:
            while True:
                progress(1)
                began.set()
                time.sleep(0.01)
        finally:
            ended.set()

    node.scan = endless
    server = SocketServer(node, folder / "s")
    server.start()
    heard: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: heard.append(speak(folder / "s", b"GET /events HTTP/1.1\r\nhost: n\r\n\r\n", 30))),
        threading.Thread(
            target=lambda: heard.append(
                speak(
                    folder / "s",
                    b"POST /verify/%s HTTP/1.1\r\nhost: n\r\naccept: text/event-stream\r\ncontent-length: 0\r\n\r\n"
                    % TABLE.encode(),
                    30,
                )
            )
        ),
    ]
    for thread in threads:
        thread.start()
    assert began.wait(10)
    server.stop()
    assert ended.wait(10)
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert any(b"the node is stopping" in answer for answer in heard)
    assert not (folder / "s").exists()
    server.stop()
    assert not [thread.name for thread in threading.enumerate() if thread.name == "http"]


def test_a_server_can_be_started_again(node: StandingNode, folder: Path) -> None:
    for _ in range(2):
        with SocketServer(node, folder / "s") as server:
            assert ask(server.path, "GET", "/health/live").json == {"status": "ok"}


# -- peers --------------------------------------------------------------------------------------------------------------------


def test_roles_follow_from_who_connected() -> None:
    doorman = Doorman(owner=1000, group=AUDITORS)
    assert doorman.role(Peer(1000, 1000, 1)) is Role.OPERATOR
    assert doorman.role(Peer(0, 0, 1)) is Role.OPERATOR
    assert doorman.role(Peer(1001, AUDITORS, 1)) is Role.AUDITOR
    assert doorman.role(Peer(1001, 1001, 1, frozenset({7, AUDITORS}))) is Role.AUDITOR
    assert doorman.role(Peer(1001, 1001, 1, frozenset({7}))) is None
    assert Doorman(owner=1000, group=None).role(Peer(1001, 0, 1)) is None
    assert doorman.role(Peer(1001, 1001, 1, None)) is None, "a user that the system does not know is in no group"
    assert Doorman(owner=1000, group=0).role(Peer(-1, -1, 0)) is None


def test_groups_that_the_kernel_does_not_tell_are_those_of_the_user_database() -> None:
    members = [(group.gr_gid, USERS[name]) for group in grp.getgrall() for name in group.gr_mem if USERS.get(name)]
    if not members:
        pytest.skip("no user of this machine is in any further group")
    group, uid = members[0]
    assert Doorman(owner=uid + 1, group=group).role(Peer(uid, 7, 1, None)) is Role.AUDITOR
    assert Doorman(owner=uid + 1, group=group).role(Peer(uid, 7, 1, frozenset())) is None


def test_the_kernel_names_this_process_and_its_groups(folder: Path) -> None:
    listener = bind_socket(folder / "s", None)
    listener.setblocking(True)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(folder / "s"))
        accepted, _ = listener.accept()
        with accepted:
            peer = read_peer(accepted)
    listener.close()
    assert (peer.uid, peer.gid, peer.pid) == (os.geteuid(), os.getegid(), os.getpid())
    assert peer.groups == frozenset(os.getgroups())


@as_root
def test_another_user_cannot_open_the_socket(socket_path: Path) -> None:
    answer = ask_as(socket_path, NOBODY, NOBODY, "GET", "/status")
    assert (answer.status, answer.text) == (0, "PermissionError")


@as_root
def test_another_user_who_got_in_has_no_role(socket_path: Path) -> None:
    socket_path.chmod(0o666)
    answer = ask_as(socket_path, NOBODY, NOBODY, "GET", "/status")
    assert answer.status == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["code"] == "permission" and answer.json["exit_code"] == 12
    assert "nobody (uid 65534)" in answer.json["detail"]
    assert "socket_group" in answer.json["hint"]
    assert ask_as(socket_path, NOBODY, NOBODY, "GET", "/health/live").status == 200


@as_root
@pytest.mark.parametrize("how", ["primary", "supplementary"])
def test_a_member_of_the_group_reads_and_verifies_and_changes_nothing(node: StandingNode, folder: Path, how: str) -> None:
    node.add_table(rows=3)
    node.seal()
    finding = node.find()
    auditors = next(group for group in grp.getgrall() if group.gr_gid not in (0, NOBODY))
    gid, groups = (auditors.gr_gid, ()) if how == "primary" else (NOBODY, (auditors.gr_gid,))
    size = node.journal.size
    with SocketServer(node, folder / "s", auditors.gr_name) as server:
        assert mode_of(server.path) == 0o660

        def asks(method: str, target: str, body: str | None = None) -> int:
            return ask_as(server.path, NOBODY, gid, method, target, body, groups).status

        assert asks("GET", "/status") == 200
        assert asks("POST", f"/verify/{TABLE}", "{}") == 200
        assert asks("GET", f"/bundles/row?table={TABLE}&key=1") == 200
        assert asks("GET", f"/bundles/row?table={TABLE}&key=1&with_row=1") == 403
        assert asks("POST", f"/findings/{finding}/ack", '{"reason": "x"}') == 403
        assert asks("POST", f"/findings/{finding}/approve", '{"body": {}}') == 403
        assert asks("POST", "/protect", '{"table": "t"}') == 403
        assert asks("POST", "/decisions", '{"type": "key", "body": {}}') == 403
        assert asks("GET", f"/findings/{finding}/repair") == 403
        assert asks("POST", f"/findings/{finding}/repair", "{}") == 403
        assert ask_as(server.path, NOBODY, NOBODY, "GET", "/status").text == "PermissionError"
    assert node.journal.size == size


@as_root
def test_the_journal_names_the_user_who_asked(node: StandingNode, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node.add_table(rows=3)
    finding = node.find()
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    with SocketServer(node, folder / "s") as server:
        server.path.chmod(0o666)
        answer = ask_as(server.path, NOBODY, NOBODY, "POST", f"/findings/{finding}/ack", '{"reason": "seen it"}')
    assert answer.status == 200 and answer.json["state"] == "acknowledged"
    with node.db.read() as conn:
        leaves = [bytes(leaf) for (leaf,) in conn.execute("SELECT leaf FROM journal ORDER BY seq")]
    (operator,) = [leaf for leaf in leaves if b'"type":"operator"' in leaf]
    assert b'"action":"findings.ack"' in operator
    assert rb"\"by\":\"nobody (uid 65534)\"" in operator and finding.encode() in operator


@as_root
def test_the_client_says_when_the_socket_may_not_be_opened(socket_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from witnz.web.client import NodeClient\n"
        "from witnz.errors import WitnzError\n"
        "client = NodeClient(Path(sys.argv[1])); os.setgid(65534); os.setuid(65534)\n"
        "try: client.status()\nexcept WitnzError as error: print(error.code, error.exit_code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(socket_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["key", "12"], done.stderr


def test_no_socket_and_a_dead_one_are_an_unreachable_node(folder: Path) -> None:
    with NodeClient(folder / "s") as client:
        assert not client.is_running()
        with pytest.raises(NodeUnreachable) as caught:
            client.status()
        assert "witnz start" in caught.value.hint
    bind_socket(folder / "s", None).close()
    with NodeClient(folder / "s") as client, pytest.raises(NodeUnreachable):
        client.status()


def test_a_listener_that_never_answers_is_given_up(folder: Path) -> None:
    listener = bind_socket(folder / "s", None)
    with NodeClient(folder / "s", answer_s=0.2) as client, pytest.raises(NodeUnreachable, match="in time"):
        client.status()
    listener.close()
    assert not isinstance(KeyProblem("x"), NodeUnreachable)
