"""Higgs Audio v2 in this process, decoded in batches, with LoRA adapters that are trained on marks.

backend        the `Synthesizer` that the pipeline calls       settings      which model, and how it is run
model_text     marked text to the text that the model reads    prompt        texts and recordings to token ids
worker         the thread that owns the model                  requests      generation requests and their handles
scheduler      continuous batching                             batch         autoregressive decoding of a batch
decode_step    one decoding step                               step_runner   steps run eagerly or as CUDA graphs
kv_cache       preallocated keys, values and decoding state    sampling      temperature, top-k, top-p, repetition-aware sampling
checkpoint     load model, tokenizer and codec                 engine        all of a loaded model behind one interface
codec_model    the codec's class, also without torchaudio      codec_stream  codes to audio, chunk by chunk
adapter        find, read and check LoRA adapters              base_model    identity of an adapter's base model
peft_files     PEFT's files of an adapter                      prosody_file  prosody.json: marks and base of an adapter
lora           merge an adapter into a loaded model            merge         write a merged checkpoint
weights_file   safetensors headers, files under new names      boson_format  conversion from boson_multimodal's format
"""
