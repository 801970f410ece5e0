"""Agreement of scores with people. This room imports data and utils, and no torch.

agreement: joining of scores and MOS, measures and tables of evaluate.py
compare: differences of two predictors on the same images
mos: MOS from files of ratings and choices; HECD's z-scores from its raw ratings
pairs: pairwise accuracy, and two areas under a ROC curve
protocols: repeated training and testing
rating_files: files that raters save on a rating page, and which raters count
ratings: statistics of ratings and choices: screening, mean opinions, reliability
"""
