"""Floor 0: rigid transforms, camera model and calibration files. Needs numpy, scipy and OpenCV only."""
