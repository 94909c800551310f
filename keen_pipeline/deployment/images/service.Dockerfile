# The embedded Keen-compatible service. Everything it keeps is in /var/lib/keen: mount a volume there.
#   docker build -f service.Dockerfile -t registry.example.com/keen-service:0.2.0 .
FROM python:3.13-slim-trixie

ARG KEEN_PIPELINE_VERSION=0.2.0

ENV PYTHONUNBUFFERED=1

RUN groupadd --gid 10001 keen \
    && useradd --uid 10001 --gid keen --create-home --shell /usr/sbin/nologin keen \
    && install --directory --owner=keen --group=keen /var/lib/keen

RUN --mount=type=bind,source=wheels,target=/wheels \
    python -m pip install --no-cache-dir --find-links /wheels "keen_pipeline==${KEEN_PIPELINE_VERSION}"

USER 10001:10001
WORKDIR /home/keen
EXPOSE 8765
HEALTHCHECK --interval=20s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8765/healthz', timeout=4)"]
CMD ["keen-pipeline", "serve", "--host", "0.0.0.0", "--port", "8765", "--data", "/var/lib/keen"]
