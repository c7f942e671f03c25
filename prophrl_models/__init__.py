"""Floor 1: learning. No rclpy, no robot_bridge."""
