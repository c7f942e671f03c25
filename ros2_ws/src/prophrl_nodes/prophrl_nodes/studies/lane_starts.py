"""The twin's own start pictures as prompts: imagination begins where the lane will begin."""

from __future__ import annotations

from collections.abc import Sequence

from prophrl_models.data.image import policy_camera, policy_image
from prophrl_models.data.synchronise import SyncSpec, state_vector
from prophrl_models.prophet.rollout import Prompt
from robot_bridge.twin.fast_lane import FastLane
from robot_bridge.twin.tasks import Placement, get_task


def lane_prompts(task_id: str, placements: Sequence[Placement], sync: SyncSpec) -> list[Prompt]:
    """One for each placement, with the lane's camera.

    Args:
        sync: how the policy's observations are formed.
    """
    instruction = get_task(task_id).instruction
    prompts = []
    with FastLane(task_id) as lane:
        assert lane.renderer is not None  # as long as the lane is open
        camera = policy_camera(lane.renderer.camera, sync.image_region)
        for index, placement in enumerate(placements):
            seen = lane.reset(placement)
            state = state_vector(seen.T_base_tcp, float(seen.state_7[6]), sync)
            image = policy_image(seen.image_HW3, sync.image_region)
            prompts.append(Prompt(image, state, instruction, camera, f"start {index}"))
    return prompts
