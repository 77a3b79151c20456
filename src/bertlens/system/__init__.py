"""What the project needs of the operating system; sees nothing else of the project."""
