"""The Prophet world model: from one frame, its history and 20 actions to the next 20 frames."""
