# docker build -t prosody-speech .
# docker run -p 127.0.0.1:8000:8000 -e PROSODY_API__KEYS=... -v prosody:/data prosody-speech
#
# For a torch without CUDA, name an index of CPU builds: --build-arg PIP_EXTRA_INDEX_URL=...

FROM python:3.11-slim AS build
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/prosody/bin:$PATH
RUN python -m venv /opt/prosody
WORKDIR /srv/prosody

# The packages first: their layer is rebuilt only where pyproject.toml or constraints.txt has changed.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > /tmp/packages.txt \
    && pip install -c constraints.txt -r /tmp/packages.txt

COPY README.md LICENSE ./
COPY prosody_tagger prosody_tagger
COPY synth synth
COPY ai_core ai_core
COPY api api
COPY models models
RUN pip install --no-deps -e . && python -m compileall -q .


FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /data --no-create-home prosody \
    && install -d -o prosody -g prosody /data /data/voices
COPY --from=build /opt/prosody /opt/prosody
COPY --from=build /srv/prosody /srv/prosody

# Nothing is written outside /data and /tmp, so the root file system may be read-only. Settings and keys come from the environment.
ENV PATH=/opt/prosody/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/data/hub \
    PROSODY_API__VOICES=/data/voices
USER 10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client as h, os; c = h.HTTPConnection('127.0.0.1', int(os.getenv('PROSODY_API__PORT', '8000')), timeout=4); c.request('GET', '/ready'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["prosody"]
CMD ["serve", "--host", "0.0.0.0"]
