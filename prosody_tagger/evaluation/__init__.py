"""Evaluation of the tagger.

evaluate       the command `evaluate-tagger`
metrics        labels, predictions, measures over scores, and bootstrap intervals
baselines      predictors without a model, for comparison
mark_scores    precision and recall of the marks that a tagger sets
report         tables of results
plots          loss curves and precision-recall curves
"""
