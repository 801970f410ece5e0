"""How networks are trained. This room imports models, data and utils.

colorings: colorings of one photograph, for train_ranker.py
engine: the loop, prediction, saving and resuming
pictures: images and their ratings as networks read them
runs: what the training scripts do around the loop: folder, split, start weights, test, out-of-fold predictions
"""
