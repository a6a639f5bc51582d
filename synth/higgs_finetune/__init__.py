"""LoRA fine-tuning of Higgs Audio v2 on recordings and their texts, with or without marks.

The command
    command            the command line of `train-higgs`
    run                one run, from manifest and base model to the saved adapter
    settings           hyperparameters, and the names of the files in an output folder
    progress           terminal progress display
Data
    manifest, chatml   reader of ChatML manifests
    validate           checks of a manifest and its recordings
    sample_data        writer of a small working manifest
    codec_cache        recordings as codec codes, cached on disk
    examples           manifest rows as tokens, audio frames and labels; collation
    batch_sampler      length-grouped sampler
    data_loader        micro-batches of each optimizer step
Training
    targets            where LoRA goes, and tokens for marks
    forward, loss      the model's layers as training runs them; text and audio loss
    trainer            the training loop
    checkpoints        checkpoints, and how a run resumes from one
    resource_estimate  memory and time that a run will need
Results
    evaluation         held-out losses and the leak test
    samples            speech generated from held-out rows, and its measurements
    metrics_log        metrics log (JSON Lines, TensorBoard) and the loss monitor
    model_card         model card and loss curves
"""
