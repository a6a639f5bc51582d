"""boson_multimodal behind OpenAI's speech form.

It stands apart: it has an environment of its own and knows nothing of this project.
"""
