"""What a prediction rests on: methods, and the words they credit."""
