"""Thin lifecycle nodes, one a file, around the classes of the other rooms; the only place that knows ROS."""
