"""The wheel, built from the sources alone and installed away from them, is the whole package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("lifelong", "policies", "stores", "pyproject.toml", "README.md", "LICENSE")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources: building leaves files beside them."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    sources.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, sources)
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*PIP, "wheel", *options, str(sources)], check=True)
    (built,) = folder.glob("lifelong-*.whl")
    return built


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    ours = {
        path.relative_to(ROOT).as_posix()
        for package in ("lifelong", "policies", "stores")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert inside == ours
    assert {"lifelong/py.typed", "lifelong/report/assets/live.js"} <= inside


def test_it_works_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    """In a fresh environment whose only link to this one are the packages that it depends on."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    venv.create(tmp_path / "venv", with_pip=False)
    bin = tmp_path / "venv" / "bin"
    install = ["--python", str(bin / "python"), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*PIP, *install], check=True, env=environment)
    packages = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    # As lines of a .pth the folders are searched, but what is installed there as editable is not.
    (packages / "others.pth").write_text("\n".join(each for each in sys.path if "site-packages" in each))

    def output(*command: object) -> str:
        ended = subprocess.run(
            [str(each) for each in command], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    where = output(bin / "python", "-c", "import lifelong, policies, stores; print(lifelong.__file__)")
    assert Path(where.strip()).is_relative_to(tmp_path)
    assert output(bin / "lifelong", "--help").startswith("Usage: lifelong")
    assert "adapt-inf" in output(bin / "lifelong", "methods")
