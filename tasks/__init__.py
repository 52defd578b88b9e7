"""What is learned from: task specs, rows, splits, shots and metrics. Imports nothing from the other rooms."""
