# The collector: no torch, no compiler, no shell needed. Build from the repository's root:
#   docker build -f docker/collector.Dockerfile -t phasewatch-collector .
FROM python:3.11-slim AS wheels
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY probe_wire/ probe_wire/
COPY probe_post/ probe_post/
COPY probe_agent/ probe_agent/
COPY collector/ collector/
RUN pip wheel --no-cache-dir --constraint=constraints.txt --wheel-dir=/wheels ".[collector]"

FROM python:3.11-slim
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links=/wheels "phasewatch[collector]" \
    # A named volume takes its owner from the image, and nobody else may write the store or read the keys.
    && install --directory --owner=65532 --group=65532 --mode=0700 /data \
    && install --directory --owner=65532 --group=65532 --mode=0755 /scrape

# In a container 127.0.0.1 is the container itself: listen on its network. So agents need a key, and the page a token and
# either a certificate (PHASEWATCH_WEB_TLS_CERT, _KEY) or a proxy before it (PHASEWATCH_WEB_BEHIND_PROXY).
ENV PYTHONUNBUFFERED=1 \
    PHASEWATCH_INLET_ADDRESS=tcp://0.0.0.0:5757 \
    PHASEWATCH_WEB_HOST=0.0.0.0 \
    PHASEWATCH_WEB_PORT=8757 \
    PHASEWATCH_STORE_PATH=/data/phasewatch.db \
    PHASEWATCH_SECURITY_KEYS=/data/keys

USER 65532:65532
WORKDIR /data
VOLUME /data
EXPOSE 5757 8757
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, ssl, urllib.request as r; s = 's' if os.environ.get('PHASEWATCH_WEB_TLS_CERT') else ''; r.urlopen(f'http{s}://127.0.0.1:8757/readyz', timeout=2, context=ssl._create_unverified_context())"]
ENTRYPOINT ["probe-collector"]
CMD ["serve"]
