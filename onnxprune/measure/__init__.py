"""What two models' outputs and times say about each other: drift, task metrics with intervals, latency."""
