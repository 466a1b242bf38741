"""What the authors of the paper released."""
