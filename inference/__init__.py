"""How images are scored. This room imports models and utils.

batches: our own networks on GPUs, in full batches that change no score
cluster: blocks of images on the machines of a Ray cluster
command: what the inference scripts need around the scoring: options, score files, the summary
graph: the compact networks without torch, in ONNX Runtime
maps: where colors are improbable, and which ones would be plausible
networks: our own networks as what turns pixels into scores
resize: to the input of the networks, without torch
scorer: how an image is scored, and a folder: each image read once, a row for every image
sub_scores: CF and SCC from files, for PR
"""
