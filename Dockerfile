# Build: the locked dependencies and our wheel, in a virtual environment that the second stage takes over.
FROM python:3.12-slim AS build
WORKDIR /src
COPY requirements requirements
RUN python -m venv /opt/gatekeeper \
 && /opt/gatekeeper/bin/pip install --no-cache-dir --require-hashes -r requirements/runtime.lock \
 && pip install --no-cache-dir --require-hashes -r requirements/build.lock
COPY pyproject.toml README.md LICENSE ./
COPY gatekeeper gatekeeper
COPY workers workers
COPY lua lua
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/gatekeeper/bin/pip install --no-cache-dir --no-deps /wheels/*.whl

FROM python:3.12-slim
RUN useradd --system --uid 10001 --no-create-home gatekeeper
COPY --from=build /opt/gatekeeper /opt/gatekeeper
ENV PATH=/opt/gatekeeper/bin:$PATH PYTHONUNBUFFERED=1
USER gatekeeper
EXPOSE 8080
# SIGTERM lets requests in flight finish.
STOPSIGNAL SIGTERM
ENTRYPOINT ["gatekeeper"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8080"]
