"""Higgs Audio v2 in this process.

settings     which model, and how               backend       the voice that the pipeline calls
checkpoint   loading, with one-line errors      orders, worker, together   a queue, one thread, rows decoded together
codec_model  the codec, without torchaudio      catalogue, adapter, base_model, lora, merging   LoRA adapters and their marks
prompt       texts and recordings to tokens     convert, old_names, old_codec, weights_file   from boson_multimodal's form
decode, step, places, runner, sampling          the loop over the model's own modules
codec_stream codes to sound, chunk by chunk     engine        all of that as one loaded model
"""
