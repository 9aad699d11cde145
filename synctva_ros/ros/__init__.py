"""The only room that imports rclpy: nodes that host stages, sources, and conversion of messages."""
