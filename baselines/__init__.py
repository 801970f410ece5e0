"""Published systems, one per file, trained and run like our own branches.

afine: A-FINE
aigciqa: NR-AIGCIQA and FR-AIGCIQA
command: the weights that a system starts from
delegate_transformer: Delegate Transformer
dpam: DPAM
loading: weight files of the authors
images: images and originals as a system reads them
scorer: the systems behind the interface of our branches
train: image sets for training
"""
