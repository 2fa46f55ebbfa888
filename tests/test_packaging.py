"""The built wheel, what an import loads, and what the public names say of themselves."""

import inspect
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import hotloop as hl

ROOT = Path(__file__).parents[1]
TRAIN = """
import numpy as np, hotloop as hl
X = np.random.default_rng(0).normal(size=(64, 2))
net = hl.Sequential(hl.Dense(2, 8), hl.Tanh(), hl.Dense(8, 1))
loss = hl.Trainer(net, hl.MSELoss(), hl.Adam(lr=0.01)).fit(X, X[:, :1], epochs=20).loss
assert loss[-1] < loss[0]
print(hl.__file__)
"""


def python(*arguments, folder, **environment):
    """Run the interpreter in `folder`."""
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=os.environ | environment, text=True,
                          capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The path of a wheel built from a copy of the sources, free of what earlier builds left behind."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("engine", "kernels"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    built = python("-m", "pip", "wheel", "-qq", "--no-deps", "-w", target, source, folder=target)
    assert built.returncode == 0, built.stderr
    return next(target.glob("*.whl"))


def test_the_wheel_is_pure_python_and_holds_the_two_packages(wheel):
    """Every module, under its import name, and nothing else."""
    assert wheel.name == f"hotloop-{hl.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == ({f"hotloop/{path.name}" for path in ROOT.glob("engine/*.py")}
                     | {f"hotloop/kernels/{path.name}" for path in ROOT.glob("kernels/*.py")})


def test_the_wheel_trains_outside_the_checkout(wheel, tmp_path):
    target, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    installed = python("-m", "pip", "install", "-qq", "--no-deps", "--target", target, wheel, folder=elsewhere)
    assert installed.returncode == 0, installed.stderr
    trained = python("-c", TRAIN, folder=elsewhere, PYTHONPATH=str(target))
    assert trained.returncode == 0, trained.stderr
    assert Path(trained.stdout.strip()) == target / "hotloop" / "__init__.py"


@pytest.mark.parametrize(("folder", "package"), [("engine", "hotloop"), ("kernels", "hotloop.kernels")])
def test_folders_cannot_be_imported_by_their_own_names(folder, package):
    result = python("-c", f"import {folder}", folder=ROOT)
    assert result.returncode == 1
    assert f"ImportError: import {package}, not {folder}: " in result.stderr


def test_the_repository_root_changes_nothing_about_what_is_imported():
    result = python("-c", "import hotloop.kernels; print(hotloop.kernels.__name__)", folder=ROOT)
    assert (result.returncode, result.stdout.strip()) == (0, "hotloop.kernels"), result.stderr


def test_an_import_loads_no_compiler_and_no_optional_package(tmp_path):
    code = "import sys; before = set(sys.modules); import hotloop; print(*set(sys.modules) - before)"
    result = python("-c", code, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert not {"numba", "torch", "jax", "sklearn", "scipy", "matplotlib", "tqdm", "safetensors"} & {
        *result.stdout.split()}


def test_public_names_have_docstrings():
    """A dataclass gets its signature as docstring if it has none; that does not count."""
    public = {name: value for name, value in vars(hl).items() if not name.startswith("_")}
    assert [name for name, value in public.items()
            if not inspect.getdoc(value) or inspect.getdoc(value).startswith(f"{name}(")] == []
