"""The training of a task: building, the loop with its callbacks, finishing."""
