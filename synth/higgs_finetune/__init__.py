"""LoRA fine-tuning of Higgs Audio v2 on recordings and their texts, with or without marks.

manifest, chatml    the rows of a ChatML manifest           settings, train, run    the command, and a whole run
validate, clips     what is wrong with them                 targets, loss, loop     what is trained, on what, step by step
sample              a small manifest that works             evaluating, speaking    what it is measured by
codes               recordings as codes, kept on disk       balance, need           what it is warned of, what it will take
labels              rows as tokens, frames and labels       checkpoints, journal    its state, and what it has to tell
lengths, batches    which of them go together               screen, card            what people see of it
"""
