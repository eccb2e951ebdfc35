"""What makes files of the repository out of its code. Not installed."""
