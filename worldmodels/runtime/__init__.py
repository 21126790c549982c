"""What a run stands on: device, seeds, folder, checkpoints, signals, logs, live view."""
