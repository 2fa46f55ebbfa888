"""A folder of object code, one file a kernel, that only its owner can have written.

Entries are named by a digest of all that their content depends on, so a stale one is never found; each carries a
checksum, so a damaged one is never used. Trouble of any kind means compiling again, not failing.
"""

import hashlib
import os
import stat
import sys
import tempfile
from pathlib import Path

_MAGIC = b"hotloop object 1\n"


class Cache:
    """Reads and writes entries below `folder`; None keeps nothing."""

    def __init__(self, folder):
        self.folder = folder

    @classmethod
    def default(cls):
        """The folder of HOTLOOP_CACHE_DIR, else the user's cache folder; no folder where neither is safe to use."""
        for folder in _candidates():
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError:
                continue
            if _private(folder):
                return cls(folder)
        return cls(None)

    def read(self, key):
        """The bytes stored under `key`, or None if there are none or they are damaged."""
        if self.folder is None:
            return None
        try:
            with open(self.folder / f"{key}.o", "rb") as file:
                if not _owned(os.fstat(file.fileno())):
                    return None
                content = file.read()
        except OSError:
            return None
        head, code = content[: len(_MAGIC) + 32], content[len(_MAGIC) + 32 :]
        return code if code and head == _MAGIC + hashlib.sha256(code).digest() else None

    def holds(self, key):
        """Whether there is an entry, sound or not."""
        return self.folder is not None and (self.folder / f"{key}.o").exists()

    def write(self, key, code):
        """Store `code` under `key`; other processes see the whole entry or none."""
        if self.folder is None:
            return
        try:
            handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=".new-")
        except OSError:
            return
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_MAGIC + hashlib.sha256(code).digest() + code)
            os.replace(temporary, self.folder / f"{key}.o")
        except OSError:
            Path(temporary).unlink(missing_ok=True)


def _candidates():
    chosen = os.environ.get("HOTLOOP_CACHE_DIR")
    if chosen:
        yield Path(chosen)
        return
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if base and os.path.isabs(base):
        yield Path(base) / "hotloop"


def _private(folder):
    try:
        status = os.stat(folder)
    except OSError:
        return False
    return _owned(status) and os.access(folder, os.R_OK | os.X_OK)


def _owned(status):
    """Whether the entry belongs to this user and nobody else can write it; code is loaded from nowhere else."""
    if not hasattr(os, "getuid"):  # Windows: the folder's own access list decides
        return True
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
