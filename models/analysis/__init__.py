"""What came out of training runs, side by side; and beside the published runs."""
