# The base, the same for both stages. A release pins it: --build-arg BASE=python:3.13-slim@sha256:…, with the digest that
# `docker buildx imagetools inspect python:3.13-slim` prints.
ARG BASE=python:3.13-slim

# The build stage needs pip and a compiler-free install; the image gets only the finished environment.
FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/poller && python -m venv /opt/build
COPY requirements.lock requirements-build.lock ./
RUN /opt/poller/bin/pip install --require-hashes --only-binary=:all: -r requirements.lock
RUN /opt/build/bin/pip install --require-hashes --only-binary=:all: -r requirements-build.lock
COPY pyproject.toml README.md ./
COPY poller/ poller/
RUN /opt/build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir dist . && /opt/poller/bin/pip install --no-deps dist/*.whl

FROM ${BASE}
ARG BASE
ARG REVISION=unknown
LABEL org.opencontainers.image.title="hubspot-import-poller" \
      org.opencontainers.image.description="Finds out what became of each of your HubSpot import-from-URL tasks, within your API quota" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
COPY --from=build /opt/poller /opt/poller
ENV PATH=/opt/poller/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN mkdir /data && chown 10001:10001 /data
USER 10001:10001
# The default state, sqlite:///poller.db, is in this folder; a config file's `state` counts, for the health check too.
WORKDIR /data
VOLUME /data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 \
    CMD ["sh", "-c", "exec poller healthcheck $([ -e /etc/poller/config.toml ] && echo -c /etc/poller/config.toml)"]
ENTRYPOINT ["poller"]
CMD ["run", "-c", "/etc/poller/config.toml"]
