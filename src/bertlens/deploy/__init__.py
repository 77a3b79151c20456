"""A trained classifier where it is used."""
