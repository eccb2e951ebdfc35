"""The account that PostgreSQL runs as when we are root, and a place that it can enter when ours is private
(such as /root).

PostgreSQL refuses to run as root. Permissions of directories that are not ours are never changed.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from gateway.model.errors import ConfigError

ACCOUNTS = ("fieldgate", "postgres", "pgserver", "nobody")
"""The first of these that exists."""

STATE = Path("/var/lib/fieldgate")
"""Holds what may not stay in a private directory; the data directory keeps a link to it."""


def account(cluster: Path) -> str | None:
    """Whoever owns the cluster that is there, else the first that exists. None when we are an ordinary user:
    then PostgreSQL runs as ourselves.
    """
    if os.geteuid() != 0:
        return None
    if cluster.exists():
        return cluster.owner()
    known = {entry.pw_name for entry in pwd.getpwall()}
    found = next((name for name in ACCOUNTS if name in known), None)
    if found is None:
        raise ConfigError(
            f"PostgreSQL does not run as root, and none of the accounts {', '.join(ACCOUNTS)} exists; run as"
            " an ordinary user"
        )
    return found


def directory_for(user: str, wished: Path) -> Path:
    """`wished`, made for the user; or a directory under STATE to which `wished` becomes a link, when the user
    cannot get there.
    """
    if wished.is_symlink():
        return wished.resolve()
    if wished.exists() or _can_enter(user, wished.parent):
        wished.mkdir(mode=0o700, exist_ok=True)
        shutil.chown(wished, user)
        if _can_enter(user, wished):
            return wished
        raise ConfigError(
            f"user {user!r}, as whom PostgreSQL runs, can no longer enter {wished}; open the directories"
            " above it, or name another --data-dir"
        )
    place = Path(tempfile.mkdtemp(prefix="postgres-", dir=_state(user)))
    shutil.chown(place, user)
    wished.symlink_to(place)
    return place


def binaries_for(user: str, installed: Path, version: str) -> Path:
    """`installed` (a directory of a wheel's package), or a copy of it under STATE when the user cannot get
    there.
    """
    if _can_enter(user, installed):
        return installed
    package = installed.parent
    libraries = package.with_name(
        f"{package.name}.libs"
    )  # where a wheel keeps the shared libraries that its binaries find by relative path
    copy = _state(user) / f"{package.name}-{version}"
    if not copy.exists():
        half = Path(tempfile.mkdtemp(prefix="half-", dir=STATE))
        for source in (installed, libraries):
            if source.exists():
                shutil.copytree(source, half / source.relative_to(package.parent), symlinks=True)
        for directory in (half, half / package.name):
            directory.chmod(0o755)
        try:
            half.rename(copy)
        except OSError:  # another gateway was faster
            shutil.rmtree(half)
    return copy / installed.relative_to(package.parent)


def _state(user: str) -> Path:
    try:
        STATE.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{STATE}: {error.strerror}; PostgreSQL does not run as root: run as an ordinary user"
        ) from error
    if not _can_enter(user, STATE):
        raise ConfigError(
            f"PostgreSQL does not run as root, and user {user!r} cannot enter {STATE}; run as an ordinary"
            " user"
        )
    return STATE


def _can_enter(user: str, directory: Path) -> bool:
    return not subprocess.run(
        ["test", "-x", str(directory)], user=user, extra_groups=[], check=False, cwd="/"
    ).returncode
