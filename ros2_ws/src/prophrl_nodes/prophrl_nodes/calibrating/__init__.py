"""Hand-eye calibration of a running cell: moving, looking, keeping samples, judging the outcome."""
