"""What the figures were taken on: processor, system, versions."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .competitor import cores

PACKAGES = {"NumPy": "numpy", "Numba": "numba", "torch": "torch", "JAX": "jax", "scikit-learn": "scikit-learn",
            "ONNX Runtime": "onnxruntime"}


def facts(command, rounds):
    """By name; packages that are not installed are left out."""
    found = {"processor": processor(), "cores": cores(), "system": f"{platform.system()} on {platform.machine()}",
             "Python": platform.python_version()}
    for name, package in PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            continue
    return found | {"command": command, "rounds": rounds}


def processor():
    """The processor's name, as far as the system gives it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
