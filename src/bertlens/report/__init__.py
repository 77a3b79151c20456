"""Explained reviews as an HTML page, as a table in the terminal and in a notebook; the figures of a test."""
