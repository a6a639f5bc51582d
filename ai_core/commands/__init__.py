"""The command line `prosody`, and modules that its commands share.

cli            `prosody say | mark | voices | doctor`, and the commands below
measure, label, adapter, convert, serve     one command each
doctor         which backends, models and extras are ready
options        options of several commands       console, report     output as text, tables and JSON
"""
