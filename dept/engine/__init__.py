"""The work on a stack: forward pass, training, scoring, generation, checkpoints, memory."""
