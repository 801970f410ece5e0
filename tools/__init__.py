"""Programs around data and weights; each is run by its path.

build_color_prior: counts which colors objects have
compute_mos: computes MOS from ratings
convert_labels: turns a label file of a published system into a MOS table
detect_objects: makes label files with a detector of torchvision
export: the graph of the compact networks that needs no torch
download_published: downloads the data set and weights of the authors
export_weights: writes weights for the published scripts
label_files: reads label files of published systems
make_colorizations: a training set of our own colorizations
make_icqa2k_standin: a small stand-in for ICQA-2K
make_rating_page: a page on which people rate images
make_recolorings: a training set of photographs with planted faults
make_samples: the sample images in data/samples
train_color_prior: trains the color prior from photographs
"""
