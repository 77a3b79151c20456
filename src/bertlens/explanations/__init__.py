"""What a prediction rests on: the methods, the words they credit, and the reviews a report shows."""
