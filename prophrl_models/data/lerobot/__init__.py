"""Datasets in the LeRobotDataset v3.0 format, written and read with pyarrow and PyAV alone."""
