"""An HTTP server with OpenAI's speech API in front of boson_multimodal.

It runs in an environment of its own and imports nothing from this project's packages.
"""
