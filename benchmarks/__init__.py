"""Measurements behind the numbers and figures of the README and of the pages here and in docs/; each is run by its path.

baselines: cost and agreement of the published systems
color_prior: quality of the color prior and its map
colorizers: outputs of real colorizers
gpu_session: all that needs a GPU, in one go
hecd: agreement with people on HECD
image_metrics: other people's measures of an image
make_figures: the figures of the README and of docs/networks.md
make_percentiles: scores of real photographs, weights/percentiles.json
measure: helpers of the speed and memory benchmarks
memory: peak memory of scoring large images and of training the published CF network
metrics: agreement of other metrics on HECD
power: noise, images needed to tell two colorizers apart, worst failures
precision: scores in bfloat16
prior_ablation: contribution of the priors to SCC
reference: the published way of scoring, as a yardstick
scale: how the cost of scoring grows with the number of images
stages: rates of reading, preprocessing, the networks and the pipeline
throughput: speed of scoring a folder, on the CPU and on CUDA
weights: made-up weight files
"""
