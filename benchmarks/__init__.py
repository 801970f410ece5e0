"""Measurements behind the numbers of the README and of the pages in this folder; each is run by its path.

baselines: cost and agreement of the published systems
color_prior: what the color prior knows
colorizers: outputs of real colorizers
gpu: speed of the published networks on CUDA
hecd: agreement with people on HECD
image_metrics: other people's measures of an image
measure: what speed and memory benchmarks share
memory: peak memory for large images
metrics: agreement of other metrics on HECD
precision: scores in bfloat16
prior_ablation: what the priors are worth to SCC
reference: the published way of scoring, as a yardstick
speed: scoring on the CPU
train_memory: memory of training the published CF network
weights: made-up weight files
"""
