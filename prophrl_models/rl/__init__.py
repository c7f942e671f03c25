"""Reinforcement of flow policies inside a world model: FA-GRPO, FlowScale, rollouts, trainer."""
