"""Marks made true in the sound, and measured there, whatever voice spoke it.

align       when each word is heard            features, dtw, rendering
realise     marks put into the sound           slots, pauses, tone (silence); sentence, shape, emphasis, tunes (words)
measure     which marks are heard              contours, wavelet, prominence, figures, silences, report; plot
label       from recordings to marked text     plain_reading, recordings, labels_file

The voice to compare with is handed in. Nothing here knows of a backend, or of HTTP.
"""
