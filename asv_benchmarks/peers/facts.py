"""What the figures were taken on: processor, system, versions."""

import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .competitor import cores

PACKAGES = {"NumPy": "numpy", "Numba": "numba", "numba-cuda": "numba-cuda", "torch": "torch", "JAX": "jax",
            "scikit-learn": "scikit-learn", "ONNX Runtime": "onnxruntime"}


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


def device():
    """The CUDA device that hotloop uses, its driver, and the CUDA versions of driver and compiler, by name."""
    from hotloop.kernels import _cuda

    if _cuda.SIMULATED:
        return {"device": "Numba's simulator"}
    cuda = _cuda.target()
    found, room = cuda.get_current_device(), cuda.current_context().get_memory_info()[1]
    return {"device": found.name, "compute capability": _dotted(found.compute_capability),
            "multiprocessors": found.MULTIPROCESSOR_COUNT, "device memory": f"{room / 2**30:.1f} GiB",
            "driver": driver(), "CUDA of the driver": _dotted(cuda.driver.driver.get_version()),
            "CUDA of the compiler": _dotted(cuda.runtime.get_version())}


def driver():
    """The version of NVIDIA's driver, as nvidia-smi tells it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown: nvidia-smi is not there"
    try:
        told = subprocess.run([program, "--query-gpu=driver_version", "--format=csv,noheader"], check=True, timeout=60,
                              capture_output=True, text=True).stdout.split()
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: {error}"
    return told[0] if told else "unknown: nvidia-smi lists no device"


def _dotted(version):
    return ".".join(map(str, version))
