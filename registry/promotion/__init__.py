"""Which adapter answers for a task."""
