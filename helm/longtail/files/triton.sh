# Triton serves the ranker of every bundle that is mounted or deployed; equal rankers have equal names, and are one.
models=/var/lib/longtail/models
mkdir -p "$models"
for bundle in /mnt/models/* $(sed -n 's/.*bundle: *\([^,} ]*\).*/\1/p' /etc/longtail/deployment.yaml); do
  for ranker in "$bundle"/ranker/*; do
    if [ -d "$ranker" ]; then ln -sfn "$ranker" "$models/"; fi
  done
done
exec "$0" --model-repository="$models" "$@"
