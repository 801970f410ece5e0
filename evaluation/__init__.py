"""How well scores agree with people. This room imports data and utils, and no torch.

agreement: what evaluate.py joins, measures and writes
compare: is one predictor better than another
mos: from files of ratings and choices to MOS; HECD from its raw ratings
pairs: pairwise accuracy, and two areas under a ROC curve
protocols: train and test again and again
rating_files: what raters save of a rating page, and who is to be believed
ratings: the statistics of ratings and choices: screening, mean opinions, reliability
"""
