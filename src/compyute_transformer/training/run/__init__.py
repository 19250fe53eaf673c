"""A run on disk: its folder, checkpoints, lock and configuration."""
