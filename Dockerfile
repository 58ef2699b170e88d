# The build stage needs pip and a compiler-free install; the image gets only the finished environment.
FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/poller
COPY requirements.lock ./
RUN /opt/poller/bin/pip install --require-hashes --only-binary=:all: -r requirements.lock
COPY pyproject.toml README.md ./
COPY poller/ poller/
RUN pip wheel --no-deps --wheel-dir dist . && /opt/poller/bin/pip install --no-deps dist/*.whl

FROM python:3.13-slim
COPY --from=build /opt/poller /opt/poller
# `run` and `healthcheck` must mean the same state, whatever the config file says: a variable beats the file.
ENV PATH=/opt/poller/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 POLLER_STATE=sqlite:////data/poller.db
RUN mkdir /data && chown 10001:10001 /data
USER 10001:10001
WORKDIR /data
VOLUME /data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 CMD ["poller", "healthcheck"]
ENTRYPOINT ["poller"]
CMD ["run", "-c", "/etc/poller/config.toml"]
