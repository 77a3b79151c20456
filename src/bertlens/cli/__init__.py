"""From what a person types to a task that runs."""
