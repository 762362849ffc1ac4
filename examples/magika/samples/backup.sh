#!/usr/bin/env bash
set -euo pipefail

source_dir=${1:?usage: backup.sh DIR [TARGET]}
target=${2:-/var/backups}
stamp=$(date +%Y-%m-%d)
archive="$target/$(basename "$source_dir")-$stamp.tar.gz"

mkdir -p "$target"
if [[ -e $archive ]]; then
  echo "already there: $archive" >&2
  exit 0
fi
tar --create --gzip --file "$archive" --directory "$source_dir" .
find "$target" -name '*.tar.gz' -mtime +30 -print -delete
for file in "$target"/*.tar.gz; do
  printf '%s\t%s\n' "$(stat -c %s "$file")" "$file"
done
