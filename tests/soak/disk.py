"""A small disk: a file system in memory, mounted where we may."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE_MEGABYTES = 600


class Disk:
    """`path`: a folder on it. Without the right to mount it is an ordinary folder, and never full."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="fg-disk-"))
        self.path.chmod(0o755)  # PostgreSQL runs as a user of its own
        self.is_small = os.geteuid() == 0 and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MEGABYTES}m,mode=755", "fieldgate-soak", str(self.path)],
            capture_output=True,
            check=False,
        ).returncode  # fmt: skip

    @contextmanager
    def full(self) -> Iterator[None]:
        """Nothing can be written to it. Raises RuntimeError where it is an ordinary folder."""
        if not self.is_small:
            raise RuntimeError("no small disk could be mounted")
        ballast = self.path / "ballast"
        try:
            with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(bytes(1 << 16)):
                    pass
            yield
        finally:
            ballast.unlink(missing_ok=True)

    def remove(self) -> None:
        """It must not be used any more."""
        if self.is_small:
            subprocess.run(["umount", "--lazy", str(self.path)], check=False)
        with contextlib.suppress(OSError):
            self.path.rmdir()
