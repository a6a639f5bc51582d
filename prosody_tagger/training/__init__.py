"""Training of the tagger.

train           the command `train-tagger`
settings        its settings, from options and files
trainer         the training loop and the loss
batches         batches of labelled text as tensors
checkpoint      the state of an unfinished run
base_models     the GPT-2 under an adapter
artifacts       what a run writes: thresholds, model card, training.json
pretrain        commands that train the shipped base and adapter
distillation    an encoder as teacher, and the loss to learn from it
transplant      a GPT-2 initialised from an encoder
"""
