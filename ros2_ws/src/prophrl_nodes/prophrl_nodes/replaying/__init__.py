"""Replaying recorded episodes: the proof that convention, control rate and gripper mapping mean what they say."""
