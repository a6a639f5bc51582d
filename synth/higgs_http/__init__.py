"""Backend `higgs-http`: Higgs Audio on a server (Boson's cloud, vLLM, SGLang).

backend      `HiggsHttp`, the synthesizer: checks a request, sends it and yields its audio
settings     `HiggsSettings`
dialects     request and response formats of the supported servers
lowering     marked text to the plain text and control tags that a model accepts
connections  HTTP connections of each event loop, and requests over them
retries      retry policy
response     audio of one response: buffered, decoded, limited in length
voices       voices that the server lists, and recordings registered as voices
errors       failures of a request as errors for the user, without secrets
"""
