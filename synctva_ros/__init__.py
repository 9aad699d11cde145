"""Sync-TVA on ROS 2: how the person in front of the robot feels, from words, voice and face, in real time."""

from pkgutil import extend_path

# The generated messages (synctva_ros.msg) live beside the installed package. With the source folder first on
# sys.path (pytest, the current folder) they would not be found: a package may have several folders.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
