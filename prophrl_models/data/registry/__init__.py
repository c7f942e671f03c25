"""The datasets of the paper: what their numbers mean, and readers that turn their published files into one form.

``specs`` says per dataset which action convention, rate, gripper polarity, camera and resolution hold; ``sources``
opens a folder in a published layout; ``adapter`` makes ``general.GeneralEpisode`` of what a source read.
"""
