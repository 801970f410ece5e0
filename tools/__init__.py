"""Programs around data and weights; each is run by its path.

build_color_prior: counts which colors objects have
compute_mos: from ratings to MOS
convert_labels: a MOS table of a label file of a published system
detect_objects: label files by a detector of torchvision
export: the graph of the compact networks that needs no torch
download_published: fetches the data set and weights of the authors
export_weights: weights as the published scripts read them
label_files: label files of published systems, in their own forms
make_colorizations: a training set of colorizations of our own
make_icqa2k_standin: a small stand-in for ICQA-2K
make_rating_page: a page on which people rate images
make_recolorings: a training set of photographs with planted faults
make_samples: the sample images in data/samples
train_color_prior: trains the color prior from photographs
"""
