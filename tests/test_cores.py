"""How many threads a process can run: affinity, quotas of control groups, what the user asks for."""

import os
import subprocess
import sys

import pytest

from hotloop.kernels import _cores
from hotloop.kernels._cores import cores

ALL = 2**31
V2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = ("30 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
      "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n")
OTHERS = "25 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\ngarbage\n"


def quota(root, mounts, membership, **files):
    """What a machine with these files grants; names are paths below the control groups, with __ for /."""
    proc = root / "proc/self"
    proc.mkdir(parents=True)
    (proc / "mountinfo").write_text(mounts)
    (proc / "cgroup").write_text(membership)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_MAX", ".max").replace("cfs", "cpu.cfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return _cores.quota.__wrapped__(root)


@pytest.mark.parametrize(("text", "granted"), [
    ("max 100000\n", ALL), ("200000 100000\n", 2), ("150000 100000\n", 2), ("50000 100000\n", 1), ("400000 50000", 8),
    ("0 100000", ALL), ("-1 100000", ALL), ("", ALL), ("nonsense 100000", ALL), ("100000 0", ALL), ("1 2 3", ALL),
])
def test_version_2(tmp_path, text, granted):
    assert quota(tmp_path, OTHERS + V2, "0::/\n", cpu_MAX=text) == granted


def test_nested_groups_all_count(tmp_path):
    files = {"a__cpu_MAX": "250000 100000", "a__b__cpu_MAX": "700000 100000", "a__b__c__cpu_MAX": "max 100000"}
    assert quota(tmp_path, V2, "0::/a/b/c\n", **files) == 3


def test_a_group_of_others_does_not_count(tmp_path):
    files = {"a__cpu_MAX": "600000 100000", "a__b__cpu_MAX": "100000 100000"}
    assert quota(tmp_path, V2, "0::/a\n", **files) == 6


def test_a_container_that_sees_its_own_group_at_the_top(tmp_path):
    """Without a namespace of groups the path is the host's, while the mount shows the group itself."""
    mounts = "31 23 0:28 /docker/1f2 /sys/fs/cgroup ro - cgroup2 cgroup ro\n"
    assert quota(tmp_path, mounts, "0::/docker/1f2\n", cpu_MAX="300000 100000") == 3


def test_a_path_outside_of_the_namespace(tmp_path):
    assert quota(tmp_path, V2, "0::/../other\n", cpu_MAX="300000 100000") == 3


@pytest.mark.parametrize(("granted", "period", "cores"), [
    ("-1\n", "100000\n", ALL), ("200000", "100000", 2), ("220000", "100000", 3), ("10000", "100000", 1)])
def test_version_1(tmp_path, granted, period, cores):
    files = {"cpu,cpuacct__cfs_quota_us": granted, "cpu,cpuacct__cfs_period_us": period}
    assert quota(tmp_path, OTHERS + V1, "9:memory:/x\n4:cpuacct,cpu:/\n1:name=systemd:/\n", **files) == cores


def test_version_1_in_a_group(tmp_path):
    files = {"cpu,cpuacct__box__cfs_quota_us": "150000", "cpu,cpuacct__box__cfs_period_us": "100000",
             "memory__box__cfs_quota_us": "100000", "memory__box__cfs_period_us": "100000"}
    assert quota(tmp_path, V1, "9:memory:/box\n4:cpu,cpuacct:/box\n", **files) == 2


def test_both_versions_at_once(tmp_path):
    mounts = V1 + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    files = {"unified__cpu_MAX": "500000 100000", "cpu,cpuacct__cfs_quota_us": "300000",
             "cpu,cpuacct__cfs_period_us": "100000"}
    assert quota(tmp_path, mounts, "4:cpu,cpuacct:/\n0::/\n", **files) == 3


def test_without_files(tmp_path):
    assert _cores.quota.__wrapped__(tmp_path) == ALL


@pytest.mark.parametrize(("affinity", "granted", "chosen", "found"), [
    (8, ALL, None, 8), (8, 3, None, 3), (2, 3, None, 2), (8, ALL, "5", 5), (8, 3, "5", 3), (8, ALL, "", 8),
    (8, ALL, "0", 8), (8, ALL, "-2", 8), (8, ALL, "many", 8), (8, ALL, "64", 8)])
def test_the_least_counts(monkeypatch, affinity, granted, chosen, found):
    monkeypatch.setattr(_cores, "_affinity", lambda: affinity)
    monkeypatch.setattr(_cores, "quota", lambda: granted)
    monkeypatch.delenv("HOTLOOP_NUM_THREADS", raising=False)
    if chosen is not None:
        monkeypatch.setenv("HOTLOOP_NUM_THREADS", chosen)
    assert cores() == found


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not pin processes")
def test_affinity_counts_at_once():
    code = ("import os; from hotloop.kernels._cores import cores\n"
            "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); print(cores())")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.stdout == "1\n"


def test_what_python_is_told_counts(monkeypatch):
    """From 3.13 on, by PYTHON_CPU_COUNT or `-X cpu_count`."""
    monkeypatch.setattr(os, "process_cpu_count", lambda: 1, raising=False)
    assert cores() == 1
    monkeypatch.setattr(os, "process_cpu_count", lambda: None)
    assert cores() == 1
