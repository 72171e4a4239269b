#!/bin/sh
# Builds the image with whatever builder is here. BASE_IMAGE pins the base (by digest, for production); TAG names the result.
set -eu
cd "$(dirname "$0")/.."
tag=${TAG:-mdw:local}
set -- -f deploy/Dockerfile -t "$tag" ${BASE_IMAGE:+--build-arg "BASE_IMAGE=$BASE_IMAGE"} .
for builder in ${BUILDER:-docker podman buildah}; do
    if command -v "$builder" >/dev/null 2>&1 && "$builder" info >/dev/null 2>&1; then
        echo "building $tag with $builder"
        exec "$builder" build "$@"
    fi
done
echo "none of docker, podman and buildah is here and answers: install one, or make run, which needs no image" >&2
exit 1
