"""Labelled text for training and evaluating the tagger.

examples    the type `LabelledText`, its construction from marked text and from corpus columns, folds by speaker
readers     files of marked text, JSON Lines and corpus columns
splits      training and evaluation data without overlap
"""
