"""Who is at the other end of the Unix socket, and what they may do (interface.md 6).

    operator   the user that the node runs as, and root: reads, verifies, acknowledges, approves, protects
    auditor    members of ``socket_group``: reads and verifies
    nobody     everybody else, who in general cannot open the socket in the first place

The kernel says who connected (SO_PEERCRED and SO_PEERGROUPS, socket(7), unix(7)); nothing that the client sends counts.  It
says who they were when they connected, so a role lasts as long as the connection.
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from witnz.errors import ConfigError

_UCRED: Final = struct.Struct("iII")  # pid_t pid; uid_t uid; gid_t gid
_SO_PEERGROUPS: Final = getattr(socket, "SO_PEERGROUPS", 59)  # asm-generic/socket.h; Python does not name it
_GROUPS_BYTES: Final = 1024  # what Python asks for at most; more than 256 groups do not fit, and ERANGE says so
_NOBODY_KNOWN: Final = -1


class Role(StrEnum):
    """What a peer may do."""

    OPERATOR = "operator"
    AUDITOR = "auditor"


class HasOptions(Protocol):
    """A socket, as far as this module needs it."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that opened a connection.  ``uid`` is -1 where nobody could say.

    ``groups``: its supplementary groups; None where the kernel did not tell them, and the user database has to be asked.
    """

    uid: int
    gid: int
    pid: int
    groups: frozenset[int] | None = frozenset()

    @property
    def known(self) -> bool:
        return self.uid != _NOBODY_KNOWN

    @property
    def name(self) -> str:
        """``alice (uid 1000)``, or only the uid where the system has no name for it."""
        try:
            return f"{pwd.getpwuid(self.uid).pw_name} (uid {self.uid})"
        except (KeyError, OverflowError):
            return f"uid {self.uid}"

    def is_in(self, group: int) -> bool:
        """Whether the process, or where that is not known its user, is a member of a group."""
        if self.gid == group or self.groups is not None:
            return self.gid == group or group in (self.groups or ())
        try:
            return group in os.getgrouplist(pwd.getpwuid(self.uid).pw_name, self.gid)
        except (KeyError, OverflowError, OSError):
            return False


UNKNOWN: Final = Peer(_NOBODY_KNOWN, _NOBODY_KNOWN, 0)


def read_peer(connection: HasOptions) -> Peer:
    """The peer of a connected Unix socket; :data:`UNKNOWN` where the system does not tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return UNKNOWN
    try:
        pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, option, _UCRED.size))
    except (OSError, struct.error):
        return UNKNOWN
    return Peer(uid, gid, pid, _groups(connection))


def _groups(connection: HasOptions) -> frozenset[int] | None:
    """The supplementary groups; None on kernels before 4.13, and for a process with more than 256."""
    try:
        data = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
        return frozenset(struct.unpack(f"{len(data) // 4}I", data))
    except (OSError, struct.error):
        return None


@dataclass(frozen=True, slots=True)
class Doorman:
    """Who gets in as what.  ``owner``: the uid of the node; ``group``: the gid of ``socket_group``, None without one."""

    owner: int
    group: int | None

    @classmethod
    def of(cls, socket_group: str | None) -> Doorman:
        """For this process.  Raises ConfigError for a group that the system does not know."""
        return cls(os.geteuid(), None if socket_group is None else find_group(socket_group))

    def role(self, peer: Peer) -> Role | None:
        """The role of a peer; None: none."""
        if not peer.known:
            return None
        if peer.uid in (self.owner, 0):
            return Role.OPERATOR
        return Role.AUDITOR if self.group is not None and peer.is_in(self.group) else None


def find_group(name: str) -> int:
    """The gid of a group.  Raises ConfigError if there is none of that name."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(
            f"socket_group: there is no group {name[:60]!r}", hint=f"make it (groupadd {name[:60]}), or name another one"
        ) from None
