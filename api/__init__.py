"""The HTTP service. `api.app.create_app` creates it; `prosody serve` runs it.

app                     the application: middleware, routes and error handlers
settings                PROSODY_API__*, combined from the settings of the modules below
service                 shared by the routes: the runtime, and jobs that run within limits and stop when the client disconnects
admission               limits on concurrent work, and one synthesis shared by identical requests
security                API keys, and the hosts and origins that need none
security_middleware     refuses requests without a key, over the rate limit, or with oversized or slow bodies
rate_limit              requests per client and time
middleware              request ids, request log, request metrics
metrics, logs           Prometheus metrics, log format
responses               audio files, audio streams, server-sent events
errors                  error responses
schemas, openapi        JSON of requests and responses, and the parts of OpenAPI that FastAPI cannot derive
voice_store             uploaded voices; voice_storage keeps them in memory or in a folder
routes                  the endpoints
"""
