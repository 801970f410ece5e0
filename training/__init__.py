"""Training of networks. This room imports models, data and utils.

batches: order, views and batches of an epoch
colorings: colorings of one photograph, for train_ranker.py
engine: optimizer, schedule, the loop, and prediction
images: images and their ratings in the form that networks read
options: the command line and the recipe of a training script, as one ``TrainOptions``
records: the files of a run: checkpoints to resume from, and a log of its epochs
runs: the steps of a training script around the loop: folder, split, start weights, test, out-of-fold predictions
"""
