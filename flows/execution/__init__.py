"""What a worker does with trials: rows, training, testing, recording."""
