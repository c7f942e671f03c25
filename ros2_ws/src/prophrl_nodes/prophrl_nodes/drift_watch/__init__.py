"""Has the camera moved: frames kept during an episode, references, verdicts, where they are filed."""
