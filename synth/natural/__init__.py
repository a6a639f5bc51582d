"""The natural backend: the network of PyPI hibari-tts, with emphasis and pitch marks obeyed inside it.

backend.py         `NaturalVoice`: text to speech, one request at a time
pronunciation.py   words to phoneme symbols, and which word each symbol belongs to
utterance.py       durations, pitch and energy of a sentence, open to change
emphasis_marks.py  emphasis and pitch marks as changes of an utterance
word_timing.py     word times from the network's durations
network.py         the pieces of the network, loaded once in a process
onnx_graph.py      cuts a graph out of an ONNX file
package.py         finds the package's files and checks the model's digest
"""
