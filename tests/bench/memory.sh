#!/usr/bin/env bash
# Runs in the emulated host (`cargo xtask bench memory`): how much memory idle VMs take beside their guests' RAM, and
# what comes back of it when a guest frees memory. Prints one line a figure: subject, what, value, unit, between tabs.
set -euo pipefail
: "${NOFEAR:?}" "${NOFEAR_KERNEL:?}" "${NOFEAR_INITRAMFS:?}"

work=/dev/shm/bench
mkdir -p $work/{lib,run,cache}
cp "$NOFEAR" $work/nofear
cp "$NOFEAR_KERNEL" $work/vmlinux
cp "$NOFEAR_INITRAMFS" $work/product.cpio
{ ldd $work/nofear || true; } | awk '$3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' | xargs -r cp -Lut $work/lib
export XDG_RUNTIME_DIR=$work/run XDG_CACHE_HOME=$work/cache
export NOFEAR_KERNEL=$work/vmlinux NOFEAR_INITRAMFS=$work/product.cpio
chmod 700 $work/run
nofear() { LD_LIBRARY_PATH=$work/lib $work/nofear "$@"; }

# A figure; on stderr for whoever waits.
row() {
  printf '%s\t%s\t%s\t%s\n' nofear "$1" "$2" MiB
  echo "nofear: $1: $2 MiB" >&2
}
# The VMs' processes, each with those that serve its files.
with_servers() { for pid in "${pids[@]}"; do echo "$pid"; pgrep -P "$pid"; done; }
# sum FIELD PID...: of all mappings but the guests' RAM, those of 100 MiB and more; a mean for each VM.
sum() {
  local field=$1 pid
  shift
  for pid in "$@"; do cat "/proc/$pid/smaps"; done | awk -v field="^$field" -v count=${#pids[@]} '
    $2 ~ /^[-rwxps]+$/ && $1 ~ /-/ { servers = /zero/ } /^Size:/ { size = $2 }
    $0 ~ field && (size < 102400 || servers) { sum += $2 } END { printf "%.2f\n", sum / 1024 / count }'
}
resident() { awk '{ printf "%.1f\n", $2 * 4 / 1024 }' "/proc/$1/statm"; }
# start FILE ARGUMENT...: a VM that says "ready" in its file.
start() {
  local file=$1
  shift
  LD_LIBRARY_PATH=$work/lib $work/nofear run --temporary --cpus 1 --net none "$@" >"$file" 2>&1 </dev/null &
  pids+=($!)
  until grep -q ready "$file"; do
    kill -0 $! || { cat "$file" >&2; exit 1; }
    sleep 0.1
  done
}

for count in 1 16; do
  pids=()
  for ((vm = 0; vm < count; vm++)); do start "$work/vm$vm" --mem 128M -- sh -c 'echo ready; exec sleep 100000'; done
  sleep 5
  row "$count idle: resident beside guest RAM, each, the VMM's process" "$(sum Rss "${pids[@]}")"
  # What is shared counts in parts.
  row "$count idle: its share of it (PSS), each, the VMM's process" "$(sum Pss: "${pids[@]}")"
  row "$count idle: its share of it (PSS), each, with its file server's" "$(sum Pss: $(with_servers))"
  nofear stop --force --all
  wait "${pids[@]}" || true
done

pids=()
start $work/vm0 --mem 1536M -- sh -c 'echo ready; exec sleep 100000'
id=$(nofear ps | awk 'NR == 2 { print $1 }')
sleep 5
row "before a guest uses 512 MiB: the process" "$(resident "${pids[0]}")"
nofear exec "$id" -- sh -c 'head -c 512M /dev/zero >/tmp/large'
row "while it does" "$(resident "${pids[0]}")"
nofear exec "$id" -- rm /tmp/large
sleep 20
row "20 s after it has freed them" "$(resident "${pids[0]}")"
nofear stop --force --all
wait "${pids[@]}" || true
