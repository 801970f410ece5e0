"""Scores as one HTML page.

page: what the page shows; its template is report.html.jinja
"""
