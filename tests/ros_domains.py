# SPDX-License-Identifier: Apache-2.0
"""ROS domains that no other test process of this user is in: each is a file with a lock, which ends with its holder."""

from __future__ import annotations

import fcntl
import os
import random
import tempfile
from pathlib import Path
from typing import IO

TESTS, ROBOTS = range(1, 51), range(51, 102)  # of a test process; of the robots that it starts. Linux allows 0 to 101
FOLDER = Path(tempfile.gettempdir()) / f"dropgate-domains-{os.getuid()}"
_held: dict[str, IO[str]] = {}


class NoDomain(RuntimeError):
    """All are taken."""


def take(domains: range) -> str:
    """A domain that is this process's until `free`, or until it ends. Raises NoDomain."""
    FOLDER.mkdir(exist_ok=True)
    for domain in random.SystemRandom().sample(domains, len(domains)):
        if str(domain) == os.environ.get("ROS_DOMAIN_ID"):
            continue  # the user's own choice, which has no lock
        stream = (FOLDER / str(domain)).open("a")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            continue
        _held[str(domain)] = stream
        return str(domain)
    raise NoDomain(f"all ROS domains {domains.start} to {domains.stop - 1} are in use. Next: end other test runs")


def free(domain: str) -> None:
    """Others may have it."""
    stream = _held.pop(domain, None)
    if stream is not None:
        stream.close()
