"""The lock file agrees with pyproject.toml, and `make setup` says in one line what is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = [
    line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
]
# Both sides of every fork that Python's version makes in the lock belong here.
PYTHONS = ["3.11.0", "3.11.2", "3.11.4", "3.11.5", "3.11.14", "3.12.0", "3.13.0", "3.14.0"]


def environment(python: str, system: str) -> dict[str, str]:
    return {
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "sys_platform": system,
        "platform_system": {"linux": "Linux", "darwin": "Darwin"}[system],
        "platform_machine": {"linux": "x86_64", "darwin": "arm64"}[system],
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "os_name": "posix",
        "extra": "",
    }


def pins(env: dict[str, str]) -> dict[str, str]:
    """Versions of the lock for one Python on one system; no package has two."""
    found: dict[str, str] = {}
    for pin in map(Requirement, LINES):
        if pin.marker is None or pin.marker.evaluate(env):
            assert pin.name not in found, f"{pin.name} is pinned twice"
            found[pin.name] = str(pin.specifier).removeprefix("==")
    return found


@pytest.mark.parametrize("line", LINES)
def test_each_line_is_a_public_version_and_no_address(line):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*==[a-z0-9.]+( ; [a-zA-Z0-9_.'<>=! ()]+)?", line)
    # A build of torch brings its own; pinned here, they would rule out other builds.
    assert not re.match(r"nvidia-|cuda-|triton=", line)


@pytest.mark.parametrize("system", ["linux", "darwin"])
@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_locked_within_its_range(python, system):
    env = environment(python, system)
    locked = pins(env)
    extras = PROJECT["optional-dependencies"]
    for text in [*PROJECT["dependencies"], *(one for extra in extras.values() for one in extra)]:
        wanted = Requirement(text)
        if wanted.name == PROJECT["name"]:
            assert wanted.extras <= extras.keys()
        elif wanted.marker is None or wanted.marker.evaluate(env):
            assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)]), text


def test_torch_is_the_version_that_has_both_builds():
    # Without a local version (+cpu, +cu130), so that every build of it fits.
    assert "torch==2.13.0" in LINES


def make(tmp_path: Path, python: Path, **variables: str) -> list[str]:
    """What make writes where it can't set up."""
    if shutil.which("make") is None:
        pytest.skip("no make")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    run = subprocess.run(
        ["make", "demo", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT, env=clean | variables, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 2
    assert not (tmp_path / "venv").exists()
    return (run.stdout + run.stderr).splitlines()


@pytest.mark.parametrize("version", ["2.7.18", "3.6.15", "3.9.2", "3.10.13"])
def test_an_old_python_is_told_in_one_line(tmp_path, version):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {version}\n")
    python.chmod(0o755)
    (line,) = make(tmp_path, python)
    assert (
        f"scoresde needs Python 3.11 or newer; '{python}' is {version}: "
        "write make demo PYTHON=python3.12" in line
    )


def test_a_missing_python_is_told_in_one_line(tmp_path):
    (line,) = make(tmp_path, tmp_path / "python")
    assert "does not run" in line


def test_a_missing_venv_is_told_in_one_line(tmp_path):
    # What Debian's Python is without its package python3-venv.
    (tmp_path / "ensurepip.py").write_text("raise ImportError")
    (line,) = make(tmp_path, Path(sys.executable), PYTHONPATH=str(tmp_path))
    assert "apt install python3-venv" in line
