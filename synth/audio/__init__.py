"""Audio as samples and as bytes.

signal.py            silence levels, concatenation, resampling
joining.py           the pieces of a sentence put together with pauses
pitch.py             F0 tracking
psola.py             pitch, duration and loudness of words changed by PSOLA
time_stretch.py      rate of speech changed at the same pitch
encoding.py          audio to files and streams
decoding.py          audio files to samples
stream_decoding.py   streamed audio to samples
file_types.py        audio formats recognised by content
"""
