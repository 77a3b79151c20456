"""A run: its folder, what it tells the user, and sweeps of runs."""
