"""What all tasks share: training, its options, and what it leaves in a folder."""
