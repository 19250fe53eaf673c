"""What a training run reports: events, logs, progress, metrics."""
