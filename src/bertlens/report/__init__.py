"""Explained reviews as one HTML page that needs nothing but a browser, and as the fragment a notebook shows."""

from bertlens.report.render import classic_html, render_report

__all__ = ["classic_html", "render_report"]
