"""The store between the frozen prefix and the trained suffix."""
