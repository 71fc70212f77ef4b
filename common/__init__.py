"""What two or more papers share: runs, claims, data, training loops, plotting."""
