"""How many threads this process can run at a time: what its affinity, its container and its user allow."""

import math
import os
from functools import cache
from pathlib import Path


def cores():
    """Cores that this process may use at this moment, at least 1.

    The affinity (or what PYTHON_CPU_COUNT and `-X cpu_count` put in its place) and the time that a container's quota
    grants a second, rounded up; HOTLOOP_NUM_THREADS, where it is a positive number, is an upper bound.
    """
    most = min(_affinity(), quota())
    chosen = os.environ.get("HOTLOOP_NUM_THREADS", "")
    if chosen.isdecimal() and int(chosen):
        most = min(most, int(chosen))
    return max(1, most)


def _affinity():
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def quota(root="/"):
    """Cores that the control groups of this process grant it, rounded up; 2**31 where they grant all. Linux's alone.

    A group and all above it count: cpu.max of version 2, cpu.cfs_quota_us over cpu.cfs_period_us of version 1. In a
    container the files show its own group at the top, whatever its path outside is.
    """
    least = math.inf
    for folder, version in _groups(Path(root)):
        try:
            if version == 2:
                granted, period = (folder / "cpu.max").read_text().split()
            else:
                granted, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if granted != "max" and int(granted) > 0:
                least = min(least, int(granted) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            continue  # no such group here, or nothing that we know how to read
    return 2**31 if least == math.inf else max(1, math.ceil(least))


def _groups(root):
    """The folders that may limit this process's time, with the version of their files."""
    try:
        mounts = [line.split() for line in (root / "proc/self/mountinfo").read_text().splitlines()]
        memberships = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in (membership for membership in memberships if len(membership) == 3):
        version = 1 if controllers else 2
        if version == 1 and "cpu" not in controllers.split(","):
            continue
        for mount in mounts:
            if "-" not in mount:
                continue
            kind, options = mount[mount.index("-") + 1], mount[-1].split(",")
            if kind == ("cgroup2" if version == 2 else "cgroup") and (version == 2 or "cpu" in options):
                top = root / mount[4].replace("\\040", " ").lstrip("/")
                inside = Path("/", path).relative_to(mount[3]) if Path(path).is_relative_to(mount[3]) else Path()
                yield from ((top / part, version) for part in (inside, *inside.parents))
