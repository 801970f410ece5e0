"""How networks are trained. This room imports models, data and utils.

batches: what an epoch reads: order, views and batches
colorings: colorings of one photograph, for train_ranker.py
engine: optimizer, schedule, the loop, and prediction
images: images and their ratings as networks read them
options: the command line and the recipe of a training script, as one ``TrainOptions``
records: what a run writes: checkpoints that it goes on from, and a log of its epochs
runs: what the training scripts do around the loop: folder, split, start weights, test, out-of-fold predictions
"""
