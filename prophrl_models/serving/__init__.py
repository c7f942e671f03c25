"""Policies behind a socket: one GPU machine answers several robots."""
