"""Conversion from the format of boson_multimodal to the one that transformers reads.

convert   checkpoints, adapters and codecs, folder by folder
names     names of tensors and configuration values in both formats
codec     the codec, whose weights are also recomputed
"""
