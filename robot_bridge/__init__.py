"""Floor 1: device drivers, safety envelope, servo and the digital twin. No torch, no rclpy."""
