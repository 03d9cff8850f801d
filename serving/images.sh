#!/usr/bin/env bash
# What `make images` runs: base image, images, and beside each a CycloneDX list of what is in it.
#   images.sh OUT [IMAGE ...]        an image may have `-gpu` behind its name: serving.images.sh out retriever retriever-gpu
# BASE names a base image (Python 3.11 as python3, with venv and libpython); without it one is made of Debian's packages,
# which needs root and debootstrap. TAG is the images' tag. BUILD_ARGS goes to every `buildah build`.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$1; shift
images=("$@")
[ ${#images[@]} -gt 0 ] || images=(recommender retriever ranker collector pipelines)
tag=${TAG:-$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)}
uv=$(sed -n 's/^UV_VERSION := //p' Makefile)
base=${BASE:-localhost/longtail-base:bookworm}
# Where user namespaces or cgroups are not what runc expects, a chroot does.
export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
mkdir -p "$out"

for program in buildah $([ -n "${BASE:-}" ] || echo debootstrap); do
  command -v "$program" >/dev/null || { echo "make images: $program is missing (on Debian: apt-get install $program)" >&2; exit 2; }
done

root='' container=''
clean() {
  [ -z "$root" ] || rm -rf --one-file-system "$root"
  [ -z "$container" ] || buildah rm "$container" >/dev/null
}
trap clean EXIT
if [ -z "${BASE:-}" ] && ! buildah inspect --type image "$base" >/dev/null 2>&1; then
  echo "base image $base, about a minute"
  root=$(mktemp -d)
  debootstrap --variant=minbase --include=python3,python3-venv,libpython3.11,ca-certificates bookworm "$root" >"$out/base.log" 2>&1 ||
    { tail -n 5 "$out/base.log" >&2; exit 1; }
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale,info}/* "$root"/var/log/*
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$root" / >/dev/null
  buildah commit --quiet --rm "$container" "$base" >/dev/null
  container=''
fi

# A build sees neither the machine's certificates nor its package settings.
mounts=()
for file in /etc/ssl/certs/ca-certificates.crt /etc/pip.conf; do
  [ ! -f "$file" ] || mounts+=(--volume "$file:$file:ro")
done
for image in "${images[@]}"; do
  name=${image%-gpu} full=$tag arguments=(--build-arg "BASE=$base" --build-arg "UV=$uv")
  file=serving/$name/Containerfile
  [ -f "$file" ] || file=$name/Containerfile
  [ -f "$file" ] || { echo "make images: there is no image $name" >&2; exit 2; }
  if [ "$name" != "$image" ]; then
    grep -q '^ARG DEVICE' "$file" || { echo "make images: $name has no variant for GPUs, see $file" >&2; exit 2; }
    full=$tag-gpu; arguments+=(--build-arg DEVICE=gpu)
  fi
  echo "longtail-$name:$full"
  # Stage by stage, because a build keeps the containers of all its steps to its end, and a disk would hold them all at once.
  for stage in $(sed -n 's/^FROM .* AS //p' "$file") ''; do
    goal=(--tag "localhost/longtail-$name:$full")
    [ -z "$stage" ] || goal=(--target "$stage")
    # shellcheck disable=SC2086
    buildah build --quiet --layers "${mounts[@]}" "${arguments[@]}" ${BUILD_ARGS:-} \
      --ignorefile serving/images.ignore --file "$file" "${goal[@]}" . >"$out/$image.log" 2>&1 ||
      { tail -n 15 "$out/$image.log" >&2; exit 1; }
  done
  container=$(buildah from "localhost/longtail-$name:$full")
  at=$(buildah mount "$container")
  python3 serving/sbom.py "$at" "longtail-$name" "$full" >"$out/$image.cdx.json"
  printf '  %s MB, %s packages: %s\n' "$(($(du -sb "$at" | cut -f1) / 1000000))" "$(grep -c '"purl"' "$out/$image.cdx.json")" "$out/$image.cdx.json"
  buildah rm "$container" >/dev/null
  container=''
done
