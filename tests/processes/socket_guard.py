"""Imported by a process, it lets no socket reach anything: each try is written into the file LOG names, and refused."""

import errno
import os
import socket
import traceback
from typing import Any, NoReturn

LOG = os.environ.get("SOCKET_GUARD_LOG", "")

CONNECTING = ("connect", "connect_ex", "sendto", "sendmsg")
LOOKING_UP = ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo", "create_connection")


def refuse(*arguments: Any, **options: Any) -> NoReturn:
    address = next((value for value in arguments if not isinstance(value, socket.socket)), "")
    callers = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(traceback.extract_stack()[:-1]))
    with open(LOG, "a") as file:
        file.write(f"{address!r} from {callers}\n")
    raise OSError(errno.ENETUNREACH, "refused by the test's guard")


for name in CONNECTING:
    setattr(socket.socket, name, refuse)
for name in LOOKING_UP:
    setattr(socket, name, refuse)
