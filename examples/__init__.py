"""Examples: what else the scores are good for, each a program to read and change.

train_colorizer: a small colorizer trained with a score as a part of its loss, and what that breaks
"""
