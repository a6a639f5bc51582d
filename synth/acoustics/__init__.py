"""Word alignment, realisation of marks in audio, and measurement of marks.

Where the words are:
    align               word times by comparison with a reference reading; how far they can be trusted
    ctc                 word times by a neural CTC model instead
    reference_reading   the same text spoken by a backend that reports word times
    mel_cepstra, dtw    the features that are compared, and the search for the best path

Changing the audio:
    realise             the marks of a text, in a recording of it
    emphasis            emphasis: how much to change, and checking the result
    pitch_marks         high, low, rising and falling words
    modification        duration, energy and pitch over time, applied to audio
    pauses              silence inserted at exact lengths
    pause_placement     where in the recording each pause belongs

Measuring it:
    measure             whether each mark is audible
    report              the result as data
    plot                the result as a plot
    contours            energy and pitch over time
    prominence, wavelet how much each word stands out
    word_features       duration, energy, pitch and prominence of each word
    pause_measurement   silence between words

Marks from recordings:
    label               marked text from a recording and its transcript
    recordings          finding recordings and transcripts
    labels_file         the output file of `prosody label`

The backend that speaks the reference is a parameter: no module here imports a backend or HTTP.
"""
