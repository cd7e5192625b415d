# hyperinit on a CPU, from its wheel, as a user without rights. Podman takes this file too.
#
#   docker build -t hyperinit .
#   docker run --rm -v "$PWD:/photos" hyperinit fit photo.png -o siren.safetensors
#
# Packages come from where pip is configured to look. PyTorch's CPU-only wheels save several
# gigabytes: give their index with --build-arg PIP_EXTRA_INDEX_URL=... (or PIP_INDEX_URL=...).
FROM python:3.12-slim AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# Without .git, which the image does not need, the version is the fallback of pyproject.toml.
ARG VERSION
COPY . /source
RUN if [ -n "$VERSION" ]; then export SETUPTOOLS_SCM_PRETEND_VERSION="$VERSION"; fi \
    && pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source

FROM python:3.12-slim
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# Such as --build-arg EXTRAS=[hub,export]
ARG EXTRAS
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(ls /wheels/*.whl)$EXTRAS" && useradd --create-home --uid 1000 siren
USER siren
WORKDIR /photos
ENTRYPOINT ["hyperinit"]
CMD ["--help"]
