"""Offline reinforcement as one flow: bags and two checkpoints in, a reinforced policy out."""
