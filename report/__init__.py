"""Scores as one HTML page.

page: what the page shows; its template is report.html.jinja
statistics: its numbers: methods against each other, distributions, people against prediction
thumbnails: its images, with surprise maps and objects that look wrong
"""
