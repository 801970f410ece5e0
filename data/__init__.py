"""Rated images, one data set per file: every reader returns a table of images and MOS. This room imports utils alone.

cin25: CIN25
hecd: HECD, with its download
icqa2k: ICQA-2K
recolor: recolorings of a photograph with a known fault
splits: division by scene
table: the data set that a path holds, and several data sets as one
"""
