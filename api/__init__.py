"""The HTTP service. `api.app.create_app` makes it; `prosody serve` runs it.

settings    PROSODY_API__*                      security, limits    who may ask, how much and how often
load        places, and one synthesis for many  references          voices that users send
service     a job and the parts that do it      metrics, logs       what is counted and written down
answers     sound and events on their way out   schemas, problems   what is taken and what is said of errors
speak, openai, operations                       the endpoints
"""
