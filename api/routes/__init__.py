"""The endpoints. Code that they share is in `api`.

speech     POST /speak, /mark, /measure; GET /v1/prosody
openai     OpenAI's endpoints: speech, models, voices
health     GET /live, /ready, /metrics
"""
