"""Training, which all tasks share, in rooms: loop, run folder, devices, rewinding."""
