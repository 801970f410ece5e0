"""The ground that all other rooms stand on. This room imports none of them.

arguments: the command-line arguments that scripts have in common
checkpoint: files of weights: written whole, read without running code
choices: names and numbers that command lines offer and networks share
color: sRGB, CIELAB, chroma, hue and colorfulness in batched torch
distributed: one process or many (torchrun), and devices
files: files that are written whole or not at all, locks and checksums
images: which images are there, and their pixels
interrupt: Ctrl-C ends a script with one line
labels: label files of objects (YOLO), and the published color_.json
metrics: SRCC, KRCC, PLCC and RMSE
names: which names mean one image
pages: HTML pages from templates
png: the parts of PNG that Pillow does not read
scenes: scene and method of images
scores: the score file
shards: images inside of tar files and tables
startup: a quick start for the inference scripts
tables: CSV files, and errors about them
"""
