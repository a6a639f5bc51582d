"""The embedded backend: espeak-ng inside the project.

backend.py          `EmbeddedVoice`: text to speech with marks applied to the audio
espeak.py           voices of espeak-ng, and the worker thread that owns its process
espeak_process.py   the child process that loads the library
"""
