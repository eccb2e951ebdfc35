# The daemon alone: broker and database run elsewhere. Dependencies are checked by hash.
FROM python:3.13-slim AS build
WORKDIR /build
COPY constraints-daemon.txt ./
RUN python -m venv /opt/fieldgate && /opt/fieldgate/bin/pip install --no-cache-dir --require-hashes -r constraints-daemon.txt
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY connectors connectors
RUN /opt/fieldgate/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin fieldgate
COPY --from=build /opt/fieldgate /opt/fieldgate
USER fieldgate
ENV PATH=/opt/fieldgate/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["fieldgate"]
CMD ["run", "--config", "/etc/fieldgate/fieldgate.yaml"]
