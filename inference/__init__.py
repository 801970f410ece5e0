"""How images are scored. This room imports models and utils.

maps: where colors are improbable, and which ones would be plausible
scoring: score a folder: read each image once, a row for every image
"""
